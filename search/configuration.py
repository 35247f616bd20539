"""From a resolved configuration to the objects that it describes; every key, type and value is checked on the way."""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from gulliver.tasks.errors import InputError

TARGET_KEY = "_target_"


def build(constructor: Callable[..., Any], values: object, path: str) -> Any:
    """Return what the constructor makes of the values; raises InputError that names the key and what it may be."""
    if not isinstance(values, Mapping):
        raise InputError(f"{path} must be a group of keys, but is {values!r}")
    known = inspect.signature(constructor).parameters
    optional = [key for key, it in known.items() if it.default is not inspect.Parameter.empty]
    hints = typing.get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor)  # type: ignore[misc]
    check_keys(values, list(known), path, optional)
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
    return build(constructor, {key: value for key, value in values.items() if key != TARGET_KEY}, path)


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
    """Return the value as its annotation wants it: lists become tuples, whole numbers may stand for others."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(it for it in arguments if it is not type(None)), path)
    if origin is tuple:
        return _convert_list(value, arguments, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{path} must be of type {hint.__name__}, but is {value!r}")
    return value


def _convert_list(value: object, arguments: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{path} must be a list, but is {value!r}")
    if arguments[-1] is Ellipsis:
        return tuple(_convert(item, arguments[0], path) for item in value)
    if len(value) != len(arguments):
        raise InputError(f"{path} must be a list of {len(arguments)}, but is {value!r}")
    return tuple(_convert(item, argument, path) for item, argument in zip(value, arguments, strict=True))
