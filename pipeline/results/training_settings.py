"""What trainings were set to, and in what several of them differ."""

from collections.abc import Mapping, Sequence

from pipeline.config.recipe import Recipe

SEED = "seed"
_RECIPE = "recipe."
# What a training is, not how: it stands with its result, or belongs to the recipe's comments.
_NO_SETTINGS = ("network.name", "network.num_classes", "expect.")
# What people change and ask for first; then all others in the recipe's order.
_FIRST = ("data.name", "optimizer.learning_rate", "epochs", "batch.global_batch_size",
          "optimizer.kind", "schedule.kind", "augmentation.kind")  # fmt: skip
_NAMES = {"start.from": "started from", "data.digest": "data digest"}
_SECTIONS = tuple(Recipe.model_fields)

Settings = Mapping[str, str]


def training_settings(params: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return the recipe's values of a tracked training by their keys, and what it started from.

    Empty for a run that trained nothing.
    """
    if f"{_RECIPE}{SEED}" not in params:
        return {}
    settings = {
        name: value
        for key, value in params.items()
        if (name := key.removeprefix(_RECIPE)) != key and not name.startswith(_NO_SETTINGS)
    }
    start = "random weights"
    if digest := tags.get("start.digest"):
        start = f"{tags.get('start.from', '')} ({digest[:8]})".lstrip()
        settings["start.new_layers"] = tags.get("start.new_layers", "none")
    return {
        **settings,
        "start.from": start,
        "data.name": tags.get("dataset.name") or settings.get("data.name", ""),
        "data.digest": tags.get("dataset.digest", "")[:8],
    }


def differing_settings(trainings: Sequence[Settings]) -> list[str]:
    """Return the keys that all trainings have with values that differ, most values first.

    A key that some lack follows from another that differs: a cosine schedule has no list of epochs.
    Of as many values, those come first that people change most. Trainings of unknown settings are
    left out.
    """
    known = [settings for settings in trainings if settings]
    if len({settings.get("data.name") for settings in known}) > 1:
        known = [{k: v for k, v in each.items() if k != "data.digest"} for each in known]
    shared = set.intersection(*(set(settings) for settings in known)) if known else set()
    values = {key: len({settings[key] for settings in known}) for key in shared}
    return sorted(
        (key for key, count in values.items() if count > 1),
        key=lambda key: (-values[key], *_place(key)),
    )


def setting_names(keys: Sequence[str]) -> dict[str, str]:
    """Return short names for these keys: "learning rate", or "schedule" for its kind."""
    short = {key: _short_name(key) for key in keys}
    names = list(short.values())
    return {
        key: name if names.count(name) == 1 else key.replace(".", " ").replace("_", " ")
        for key, name in short.items()
    }


def _short_name(key: str) -> str:
    section, _, name = key.rpartition(".")
    if name in ("kind", "name"):
        return section.rpartition(".")[2].replace("_", " ")
    return _NAMES.get(key, name.replace("_", " "))


def _place(key: str) -> tuple[int, int, str]:
    section = key.partition(".")[0]
    first = _FIRST.index(key) if key in _FIRST else len(_FIRST)
    return first, _SECTIONS.index(section) if section in _SECTIONS else len(_SECTIONS), key
