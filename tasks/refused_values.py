"""What the command line says about a value that an option does not take: a class of another kind, a word, nothing."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

from jsonargparse._subcommands import find_action

import attention
import datamodules
from configs.parts import part_names
from tasks.choices import choices
from tasks.near_names import instead, listed, missing_file
from tasks.option_types import named_choice, takes_list, takes_null, type_words
from tasks.other_names import WORDS
from tasks.precision import no_precision
from tasks.recipe_parts import FOLDERS
from tasks.refused_place import Place


def unknown_class(place: Place, found: re.Match[str]) -> str:
    """A name that no class has."""
    name = found[1] or place.owner or place.given(place.option())
    if re.search(r"\.(ya?ml|json)$|/", name):
        return f"{place.option()}: {missing_file(Path(name))}"
    if not name or name.lower() in WORDS:
        return f"{place.option()} is {name!r}, expected a class ({place.option()}.help lists them){_null(place)}"
    if beside := _other_kind(place, name) or _other_pipeline(place, name):
        return beside
    reason = "" if found[1] else f" ({place.text})"
    if place.text.startswith("No module named"):
        remedy = "; a module of your own is looked for in the folder where you are and in those of PYTHONPATH"
        return f"{place.option()} {name} cannot be found{reason}{remedy}"
    return f"{place.option()} {name} cannot be found{reason}{_instead_of_class(place, name)}"


def _other_kind(place: Place, name: str) -> str | None:
    """That a mixer was given where refinements stand, the other way round, or one of them for a whole backbone."""
    given, option = getattr(attention, name, None), place.option()
    kinds = {"mixer": attention.Mixer, "attention": attention.Refine}
    there = next((kind for kind, base in kinds.items() if inspect.isclass(given) and issubclass(given, base)), None)
    group, _, here = option.rpartition(".")
    if there is None or here not in ("backbone", *kinds) or here == there:
        return None
    other = f"{option if here == 'backbone' else group}.{there}"
    role = {"mixer": "replaces convolutions", "attention": "refines the maps behind convolutions"}[there]
    return f"{option} {name}: {name} {role}, so it is given as {other} {name}"


def _other_pipeline(place: Place, name: str) -> str | None:
    """That a pipeline prepares images for the other task."""
    given = getattr(datamodules, name, None)
    owners = {datamodules.DetectionPipeline: "tasks.detect", datamodules.SegmentationPipeline: "tasks.segment"}
    for pipeline, owner in owners.items():
        if inspect.isclass(given) and issubclass(given, pipeline):
            return f"{place.option()} {name} belongs to {owner}; {place.option()}.help lists what fits here"
    return None


def _instead_of_class(place: Place, name: str) -> str:
    return instead(name, _class_names(place), f"{place.option()}.help")


def _null(place: Place) -> str:
    return f"; nothing is written null: {place.option()} null" if takes_null(place.type()) else ""


def no_class_yet(place: Place, _: re.Match[str]) -> str:
    """Options of a class that is not named."""
    if place.option() == "--data" and not place.given("--config"):
        return place.missing_checkpoint() or f"no recipe given; add --config {place.recipe()}"
    if place.given(place.option()) == "null":
        return f"{place.option()} is null, expected a class ({place.option()}.help lists them)"
    return f"{place.option()} needs its class before the options of the class{_instead_of_class(place, '')}"


def wrong_class(place: Place, found: re.Match[str]) -> str:
    """A class of another kind."""
    return f"{place.option()} {found[1]} is no {found[2]}{_instead_of_class(place, found[1])}"


def wrong_value(place: Place, found: re.Match[str]) -> str:
    """A value of another type."""
    value = found[1]
    if value.startswith("Namespace(class_path="):
        return _incomplete_class(place, value)
    if nested := re.match(r"NestedArg\(key='([^']+)', val='?(.*?)'?\)$", value):
        place.keys[-1:] = [f"{place.keys[-1]}.{nested[1]}"]
        return f"{place.option()} is {nested[2]}, which does not fit; see {place.option().rpartition('.')[0]}.help"
    if place.option() == "--trainer.precision":
        return no_precision(value)
    near = instead(value, list(dict.fromkeys(type_words(place.type()))))
    near = near if "did you mean" in near else ""
    if value.lower() in WORDS or value == "None":
        near = _null(place)
    elif place.option() == "--resume":
        near = "; which run goes on is said by --name"
    elif re.fullmatch(r"[\w.]+(,[\w.]+)+,?", value) and takes_list(place.type()):
        near = f"; write [{value.strip(',')}]"
    elif value.startswith("[") and not value.endswith("]"):
        near = "; write a list without spaces, or in quotes"
    return f"{place.option()} is {value!r}, expected {_values(place)}{near}"


def _incomplete_class(place: Place, value: str) -> str:
    """Which options of a class have no value, in jsonargparse's text of the class."""
    path = re.findall(r"class_path='([^']+)'", value)[0]
    module, _, name = path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    needed = [option.name for option in parameters if option.default is option.empty and f"{option.name}=None" in value]
    return (
        f"{path} needs {listed([place.option(name) for name in needed], 'and')}"
        if needed
        else (f"{place.option()} {path} does not fit; {place.option()}.help {name} lists its options")
    )


def no_class(place: Place, found: re.Match[str]) -> str:
    """Null, or a list in which a name is unknown, where a class is expected."""
    given = ast.literal_eval(found[1]) if found[1].startswith("[") else found[1]
    for name in given if isinstance(given, list) else ():
        if isinstance(name, str) and "." not in name and named_choice(place.type(), name) is None:
            return f"{place.option()} {name} cannot be found{_instead_of_class(place, name)}"
    shown = "null" if given == "None" else repr(given)
    return f"{place.option()} is {shown}, expected {_values(place)}"


def no_value(place: Place, found: re.Match[str]) -> str:
    """An option at the end of the line, or before another."""
    option = found[1].rpartition("/")[2]
    if option == "--config":
        return "--config stands without a file; expected one such as configs/detect/quickstart.yaml"
    if line := place.one_word(option):
        return line
    place.keys[:] = [option.lstrip("-")]
    place.parser = next((own for own in place.commands() if find_action(own, place.keys[0])), place.parser)
    return f"{option} stands without a value; expected {_values(place)}"


def _class_names(place: Place) -> list[str]:
    """What can be named for an option: classes, functions, and files of options where nothing else has the name."""
    names = [choice.name for choice in choices(place.type())]
    taken = {name.rpartition(".")[2].lower() for name in names}
    return [*names, *(name for name in part_names(FOLDERS.get(place.option(), "")) if name not in taken)]


def _values(place: Place) -> str:
    """What an option takes, in words."""
    hint = place.type()
    if choices(hint):
        null = ", or null for none" if takes_null(hint) else ""
        return f"a class ({place.option()}.help lists them){null}"
    return listed(list(dict.fromkeys(type_words(hint))))
