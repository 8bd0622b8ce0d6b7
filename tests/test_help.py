"""Every command's help says what it takes, in whole sentences, with an example."""

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import main


def commands(group=main, name="raphe"):
    """All commands by their full names, groups included."""
    context = click.Context(group)
    yield name, group
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {each}")
        else:
            yield f"{name} {each}", command


COMMANDS = dict(commands())


def help_of(name):
    result = CliRunner().invoke(main, [*name.split()[1:], "--help"])
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    text = help_of(name)
    assert "Example" in text
    assert f"{name} " in text.partition("Example")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_explained(name):
    command = COMMANDS[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
        else:
            assert str(parameter.metavar or parameter.name).upper() in (command.help or ""), (
                f"the help of {name} does not say what {parameter.name} is"
            )


@pytest.mark.parametrize(
    "name", [name for name, each in COMMANDS.items() if isinstance(each, click.Group)]
)
def test_lists_of_commands_are_not_cut_short(name):
    listed = help_of(name).partition("Commands:")[2].partition("Example")[0]
    assert listed.strip()
    assert "..." not in listed
