"""`fedsim list`: what there is to choose from."""

from __future__ import annotations

from fedsim.cli.arguments import Parser, take_config_dir
from fedsim.config.trust import import_from_here
from fedsim.errors import require


def main(given: list[str]) -> int:
    """Every group and option, or the options of one group with their settings."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedsim.config.building import suggest
    from fedsim.config.options import find_options, settings_line

    config_dir, given = take_config_dir(given)
    parser = Parser(
        prog="fedsim list", description="What there is to choose from: fedsim run GROUP=OPTION."
    )
    parser.add_argument("group", nargs="?", help="the options of this group, with their settings")
    # Taken above
    parser.add_argument("--config-dir", metavar="FOLDER", help="also your own options")
    group = parser.parse_args(given).group
    import_from_here()
    options = find_options(config_dir)
    require(
        group is None or group in options,
        "group",
        group,
        f"unknown group; {suggest(str(group), options)}",
    )
    table = Table("group", "option", "", box=None, pad_edge=False, header_style="bold")
    for name in options if group is None else [group]:
        for number, option in enumerate(options[name]):
            text = escape(option.text) + (
                f" [dim]({escape(str(option.path))})[/dim]" if option.own else ""
            )
            if group is not None and (settings := settings_line(option)):
                text += f"\n[dim]{escape(settings)}[/dim]"
            table.add_row(name if number == 0 else "", option.name, text)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)
    return 0
