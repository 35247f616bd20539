"""From a resolved configuration to the objects that it describes; every key, type and value is checked on the way."""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

from gulliver.tasks.errors import InputError

TARGET_KEY = "_target_"
# What tells a task, a target and a sampler from each other.
_MEMBERS = {
    "task": ("name", "model", "example_inputs", "calibration"),
    "target": ("name", "capabilities", "latency_model", "lower"),
    "sampler": ("guided", "make"),
}
_MISSING = object()
# `*arguments` and `**named` take what has no name of its own, so no key stands for them.
_WITHOUT_NAME = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build(constructor: Callable[..., Any], values: object, path: str) -> Any:
    """Return what the constructor makes of the values; raises InputError that names the key and what it may be."""
    if not isinstance(values, Mapping):
        raise InputError(f"{path} must be a group of keys, but is {values!r}")
    parameters = inspect.signature(constructor).parameters
    known = [key for key, it in parameters.items() if it.kind not in _WITHOUT_NAME]
    optional = [key for key in known if parameters[key].default is not inspect.Parameter.empty]
    hints = typing.get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor)  # type: ignore[misc]
    check_keys(values, known, path, optional)
    return constructor(**{key: _convert(value, hints.get(key, Any), f"{path}.{key}") for key, value in values.items()})


def build_target(values: object, path: str) -> Any:
    """Return the object whose constructor the key `_target_` names."""
    if not isinstance(values, Mapping) or not isinstance(values.get(TARGET_KEY), str):
        raise InputError(f"{path}.{TARGET_KEY} must name a class, as in 'package.module.Class'")
    module_name, _, name = str(values[TARGET_KEY]).rpartition(".")
    try:
        constructor = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{path}.{TARGET_KEY}={values[TARGET_KEY]} cannot be imported: {error}") from error
    if not callable(constructor):
        raise InputError(f"{path}.{TARGET_KEY} must name a class, but {values[TARGET_KEY]} is none")
    try:
        inspect.signature(constructor)
    except ValueError as error:
        # Python's own, like dict.
        raise InputError(f"{path}.{TARGET_KEY}={values[TARGET_KEY]} does not say what its arguments are") from error
    built = build(constructor, {key: value for key, value in values.items() if key != TARGET_KEY}, path)
    _check_members(built, path)
    return built


def _check_members(built: object, path: str) -> None:
    """Raise InputError where the object is not of the kind that the path asks for; nothing of it is evaluated."""
    needed = _MEMBERS.get(path, ())
    missing = [it for it in needed if inspect.getattr_static(built, it, _MISSING) is _MISSING]
    if missing and not hasattr(type(built), "__getattr__"):
        kind = type(built).__name__
        raise InputError(f"{path} must have {', '.join(needed)}, but what {path}.{TARGET_KEY} names, {kind}, has not")


def check_keys(values: Mapping[Any, Any], known: list[str], path: str, optional: Collection[str] = ()) -> None:
    """Raise InputError for a key that is not known, or that is missing and not optional."""
    for key in values:
        if key not in known:
            full = f"{path}.{key}" if path else str(key)
            raise InputError(f"unknown key {full}; known keys are {', '.join(known) or 'none'}")
    missing = [key for key in known if key not in values and key not in optional]
    if missing:
        raise InputError(f"{path or 'the configuration'} must have a value for {missing[0]}")


def _convert(value: object, hint: Any, path: str) -> Any:
    """Return the value as its annotation wants it: lists become tuples, texts paths, whole numbers floats."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_to_one_of(value, arguments, path)
    if origin is typing.Literal:
        return _check_choice(value, arguments, path)
    if origin is list:
        return list(_convert_list(value, (*arguments, ...), path))
    if origin is tuple:
        return _convert_list(value, arguments, path)
    if origin is dict:
        return _convert_group(value, arguments, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, path)
    if hint is Path and isinstance(value, str):
        return Path(value)
    return _check_type(value, hint, path)


def _as_float(value: int, path: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"{path} must be a floating-point number, but has {len(str(value))} digits") from error


def _check_type(value: object, hint: Any, path: str) -> object:
    try:
        fits = isinstance(value, hint)
    except TypeError as error:
        raise InputError(f"{path} must be of a type that YAML has, but its annotation is {_name(hint)}") from error
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{path} must be of type {_name(hint)}, but is {value!r}")
    return value


def _check_choice(value: object, choices: tuple[Any, ...], path: str) -> object:
    # 1 equals True and 1.0, but is none of them.
    if not any(value == it and type(value) is type(it) for it in choices):
        raise InputError(f"{path} must be {' or '.join(map(repr, choices))}, but is {value!r}")
    return value


def _convert_to_one_of(value: object, hints: tuple[Any, ...], path: str) -> Any:
    """Return the value as the first annotation that it meets wants it; a single one says itself why it is not met."""
    if value is None and NoneType in hints:
        return None
    of_something = [it for it in hints if it is not NoneType]
    if len(of_something) == 1:
        return _convert(value, of_something[0], path)
    for hint in of_something:
        with suppress(InputError):
            return _convert(value, hint, path)
    raise InputError(f"{path} must be of type {' or '.join(map(_name, of_something))}, but is {value!r}")


def _convert_group(value: object, arguments: tuple[Any, ...], path: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{path} must be a group of keys, but is {value!r}")
    of_key, of_value = arguments
    return {_convert(key, of_key, path): _convert(item, of_value, f"{path}.{key}") for key, item in value.items()}


def _convert_list(value: object, arguments: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{path} must be a list, but is {value!r}")
    if arguments[-1] is Ellipsis:
        return tuple(_convert(item, arguments[0], path) for item in value)
    if len(value) != len(arguments):
        raise InputError(f"{path} must be a list of {len(arguments)}, but is {value!r}")
    return tuple(_convert(item, argument, path) for item, argument in zip(value, arguments, strict=True))


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
