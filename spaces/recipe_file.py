"""Recipes as versioned YAML files; a file is untrusted until every key and value of it is checked."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml
from gulliver.spaces.quoted import quoted
from gulliver.spaces.recipe import (
    SGD,
    Decompose,
    Finetune,
    FoundFor,
    LayerRecipe,
    Quantize,
    Recipe,
    Sparsify,
    choice_values,
    layer_values,
)
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.errors import InputError, one_line
from yaml.constructor import ConstructorError

VERSION = 1
# A layer with every choice takes some 400 characters, so this is 40,000 layers; a device file has no end.
LARGEST_FILE = 2**24
_VERSION_KEY = "gulliver_recipe"
_METHODS: dict[str, type[Any]] = {"sparsify": Sparsify, "decompose": Decompose, "quantize": Quantize}


class _Loader(yaml.SafeLoader):
    """Read YAML without what a short file could fill memory with, aliases, or numbers too long to be written again.

    Of equal keys PyYAML takes the last and says nothing; here a key must be given once.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.current_event.start_mark
            raise yaml.composer.ComposerError(None, None, "found an alias, which recipes must not have", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise ConstructorError(None, None, f"found the key {quoted(key.value)} again", key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (LookupError, AttributeError) as error:
            # PyYAML looks for what every value of a tag has, as in `!!bool maybe`.
            problem = f"found {quoted(node.value)}, which is no {node.tag}"
            raise ConstructorError(None, None, problem, node.start_mark) from error

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        # Raises ValueError where it has thousands of digits.
        str(value)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe so that a reader sees the old file or the whole new one, never a part."""
    text = yaml.safe_dump(to_document(recipe), sort_keys=False, width=110)
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe in the file; raises InputError that names the file, the layer and the rule."""
    path = Path(path)
    try:
        text = _start_of(path)
    except OSError as error:
        raise InputError(f"recipe {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"recipe {path} is not YAML: {one_line(error)}") from error
    if len(text) > LARGEST_FILE:
        raise InputError(f"recipe {path} must have at most {LARGEST_FILE} characters, but it has more")
    return _parse(path, text)


def _start_of(path: Path) -> str:
    with path.open() as file:
        return file.read(LARGEST_FILE + 1)


def _parse(path: Path, text: str) -> Recipe:
    try:
        document = _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"recipe {path} is not YAML: {one_line(error)}") from error
    try:
        return from_document(document)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error


def to_document(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain dictionaries, the layers in order of name."""
    layers = {name: _plain(layer_values(layer)) for name, layer in recipe.layers.items()}
    document = {_VERSION_KEY: VERSION, "found_for": _plain(asdict(recipe.found_for))}
    if recipe.finetune is not None:
        document["finetune"] = _plain(choice_values(recipe.finetune))
    return document | {"layers": layers}


def from_document(document: object) -> Recipe:
    """Return the recipe of such dictionaries; raises InputError where one does not fit."""
    if not isinstance(document, dict) or _VERSION_KEY not in document:
        raise InputError(f"the key `{_VERSION_KEY}` with the format's version must be present")
    version = document[_VERSION_KEY]
    if type(version) is not int or not 1 <= version <= VERSION:
        raise InputError(f"`{_VERSION_KEY}` must be at most {VERSION} for this Gulliver, but is {quoted(version)}")
    _check_keys("the recipe", document, [_VERSION_KEY, "found_for", "finetune", "layers"])
    layers = document.get("layers")
    if not isinstance(layers, dict) or not layers:
        raise InputError("`layers` must map every layer's name to its choice")
    choices = {str(name): _layer(str(name), entry) for name, entry in layers.items()}
    return Recipe(choices, _finetune(document.get("finetune")), _found_for(document))


def _finetune(entry: object) -> Finetune | None:
    # Files from before there was a choice are of what was done then.
    entry = {"optimizer": SGD} | entry if isinstance(entry, dict) else entry
    return None if entry is None else _choice("finetune", Finetune, entry)


def _layer(name: str, entry: object) -> LayerRecipe:
    entry = {} if entry is None else entry
    _check_keys(name, entry, [*_METHODS, "fallback"])
    assert isinstance(entry, dict)
    slots = {
        method: _choice(f"{name}.{method}", _METHODS[method], entry[method])
        for method in _METHODS
        if entry.get(method) is not None
    }
    fallback = entry.get("fallback")
    if fallback is not None and not isinstance(fallback, str):
        raise InputError(f"`fallback` must be a reason in words, but {name} has fallback={quoted(fallback)}")
    return LayerRecipe(**slots, fallback=fallback)


def _choice(owner: str, kind: type[Any], entry: object) -> Any:
    known = [item.name for item in fields(kind)]
    _check_keys(owner, entry, known)
    assert isinstance(entry, dict)
    try:
        return kind(**entry)
    except TypeError as error:
        raise InputError(f"{owner} must have the keys {', '.join(known)}") from error


def _found_for(document: dict[str, Any]) -> FoundFor:
    entry = document.get("found_for") or {}
    _check_keys("found_for", entry, [item.name for item in fields(FoundFor)])
    blank = FoundFor()
    for key, value in entry.items():
        wanted = dict if isinstance(getattr(blank, key), dict) else int if key == "seed" else str
        if not isinstance(value, wanted):
            raise InputError(f"found_for.{key} must be of type {wanted.__name__}, but is {quoted(value)}")
    return replace(blank, **entry)


def _check_keys(owner: str, entry: object, known: list[str]) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{owner} must map {', '.join(known)} to values, but is {quoted(entry)}")
    for key in entry:
        if key not in known:
            raise InputError(f"{owner} has the unknown key {quoted(key)}; known are {', '.join(known)}")


def _plain(value: Any) -> Any:
    """Return the value without empty entries, its unordered mappings sorted."""
    if not isinstance(value, dict):
        return value
    return {str(key): _plain(item) for key, item in sorted(value.items()) if item is not None and item != {}}
