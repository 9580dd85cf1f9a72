"""Where jobs run: in this process, or on Ray. An engine knows neither what a job computes nor how
it was configured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
