"""Every preset has the values of its paper, and makes the settings of a run."""

from __future__ import annotations

import re
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest

from viewstore.errors import ConfigError
from viewstore.images.policies import policies
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.layers import Layer, merged
from viewstore.train.loop.presets import preset_layers, preset_names
from viewstore.train.methods.table import METHODS
from viewstore.train.strategies.base import Slot
from viewstore.train.strategies.table import STRATEGIES

EIGHT = (
    "simclr",
    "moco-v2",
    "simsiam",
    "byol",
    "barlow-twins",
    "dino",
    "ibot",
    "deepcluster-v2",
)
NAMES = {f"{method}-{data}" for method, data in product(EIGHT, ("cifar10", "imagenet"))} | {
    "hvp-simsiam-imagenet", "hvp-simsiam-cifar10", "hvp-simclr-imagenet",
    "hvp-dino-vits", "hvp-dino-vitb", "hvp-ibot",
    "gs-simclr-cifar10", "gs-simsiam-cifar10", "stn-dino-cifar10",
    "dssl-simsiam-cifar10", "dssl-simclr-cifar10", "dssl-byol-cifar10",
    *(f"dssl-fig4-{arm}" for arm in "cdefghij"),
    "hexa-moco-imagenet", "hexa-dc-imagenet", "hexa-dc8-imagenet", "hexa-dc8plus",
    "hexa-ablation-moco", "hexa-ablation-dc", "hexa-moco-cifar10",
    *(f"{arm}-simclr-{data}" for arm in ("ca", "a1", "a2", "viewmaker", "viewmaker-a2") for data in
      ("cifar10", "cifar100", "tiny")),
}  # fmt: skip

# What follows is the page of the papers: of each preset, the shown values and no others are said
# there. Rates are those of 256 samples. `views` counts them: (policy, number), ...
RESNET = {"network.backbone": "resnet50", "network.stem": "imagenet", "size": 224}
SGD = {"optim.name": "sgd", "optim.lr": 0.03, "optim.weight_decay": 5e-4, "size": 32}
LARS = {"optim.name": "lars", "optim.warmup_epochs": 10}
VIT = {
    "optim.name": "adamw", "optim.lr": 5e-4, "optim.min_lr": 1e-6, "optim.clip": 3.0,
    "optim.weight_decay": 0.04, "optim.weight_decay_end": 0.4, "optim.warmup_epochs": 10,
}  # fmt: skip
VIT_S = {**VIT, "network.backbone": "vit-s", "network.drop_path": 0.1, "precision": "fp16"}
MOCO = {"method.name": "moco-v2", "method.queue_size": 65536, "method.temperature": 0.2}
DC = {"method.name": "deepcluster-v2", "optim.name": "larc-sgd", "optim.lr": 0.3} | {
    "optim.weight_decay": 1e-6, "optim.warmup_epochs": 10,
}  # fmt: skip
HVP = {"strategy.name": "hvp", "strategy.n_views": 4}
GS = {
    "strategy.name": "graded", "strategy.lambda": 0.5, "strategy.measure": "ioa",
    "strategy.align_scale": "paper", "seed": 5, "epochs": 800,
}  # fmt: skip
CA = {"method.name": "simclr", "method.temperature": 0.5, "optim.name": "sgd"}
NT_XENT = {
    **CA, "method.loss_scale": 7.142857, "method.forward": "per_size", "batch_size": 512,
    "optim.lr": 0.5 * 256 / 512, "optim.weight_decay": 1e-4, "network.projector_norm": "none",
}  # fmt: skip
CA_DATA: dict[str, dict[str, Any]] = {
    "cifar10": {
        **CA, "network.backbone": "resnet18", "network.projector": [2048, 2048],
        "optim.lr": 0.015 * 256 / 128, "batch_size": 128, "optim.warmup_epochs": 10,
        "optim.weight_decay": 5e-5, "epochs": 800, "method.forward": "per_view",
        "method.negatives": "other", "size": 32,
    },
    "cifar100": {
        **NT_XENT, "network.backbone": "resnet50", "network.projector": [2048, 128],
        "epochs": 1200, "size": 32,
    },
    "tiny": {
        **NT_XENT, "network.backbone": "resnet18", "network.projector": [512, 128],
        "epochs": 1000, "size": 64,
    },
}  # fmt: skip
CA_VIEWS = {
    "ca": {"views": (("cifar", 2),)},
    "a1": {"views": (("cifar", 1), ("w-search+smallcrop", 1)), "strategy.name": "a1"},
    "a2": {
        "views": (("cifar", 2), ("w-search+flip", 1)), "strategy.name": "a2", "strategy.alpha": 0.5,
    },
}  # fmt: skip
# Rates of a step: .015 of 128 samples, .06 of 512, .06 of 128.
VIEWMAKER = {
    "method.name": "simclr", "network.projector": [128], "optim.name": "sgd",
    "optim.weight_decay": 1e-4, "optim.schedule": "constant",
}  # fmt: skip
VIEWMAKER_DATA: dict[str, dict[str, Any]] = {
    "cifar10": {
        "optim.lr": 0.015 * 256 / 128, "batch_size": 128, "method.temperature": 0.07,
        "epochs": 200, "strategy.clamp": False, "method.negatives": "other", "size": 32,
    },
    "cifar100": {
        "optim.lr": 0.06 * 256 / 512, "batch_size": 512, "method.temperature": 0.1,
        "epochs": 800, "strategy.clamp": False, "network.backbone": "resnet50", "size": 32,
    },
    "tiny": {
        "optim.lr": 0.06 * 256 / 128, "batch_size": 128, "method.temperature": 0.5,
        "epochs": 800, "size": 64,
    },
}  # fmt: skip
VIEWMAKER_ALPHA = {"cifar10": 0.14, "cifar100": 0.1, "tiny": 0.5}
SIMSIAM = {**SGD, "method.name": "simsiam", "network.projector": [2048, 2048], "batch_size": 512}
# DSSL's code lets the predictor's rate fall, and warms up by epochs.
DSSL = {
    **SIMSIAM, "method.fix_pred_lr": False, "optim.warmup_epochs": 9, "optim.warmup": "per_epoch",
    "epochs": 800,
}  # fmt: skip


def heavy(name: str) -> tuple[tuple[str, int], ...]:
    return (("cifar", 2), (f"{name}/0", 1), (f"{name}/1", 1))


def dssl_arm(*weights: float) -> dict[str, Any]:
    names = ("alpha", "beta", "gamma", "delta")
    pairs = zip(names, weights, strict=True)
    return {"strategy.name": "dssl"} | {f"strategy.{name}": w for name, w in pairs}


def hexa(a1: float, a2: float) -> dict[str, Any]:
    return {"strategy.name": "hexa", "strategy.a1": a1, "strategy.a2": a2}


PAPERS: dict[str, dict[str, Any]] = {
    "simclr-imagenet": {
        **RESNET, **LARS, "method.name": "simclr", "method.temperature": 0.1, "optim.lr": 0.3,
        "optim.weight_decay": 1e-6, "batch_size": 4096, "views": (("simclr", 2),),
    },
    "simclr-cifar10": {
        **SGD, "method.name": "simclr", "method.temperature": 0.5, "views": (("simclr", 2),),
    },
    "simsiam-imagenet": {
        **RESNET, "network.projector": [2048] * 3, "optim.name": "sgd", "optim.lr": 0.05,
        "optim.weight_decay": 1e-4, "batch_size": 512, "views": (("simsiam", 2),), "epochs": 100,
    },
    "simsiam-cifar10": {**SIMSIAM, "views": (("cifar", 2),), "epochs": 800},
    "byol-imagenet": {
        **RESNET, **LARS, "optim.lr": 0.2, "optim.weight_decay": 1.5e-6, "method.momentum": 0.996,
        "views": (("byol", 2),),
    },
    "byol-cifar10": {**SGD, "method.name": "byol", "views": (("cifar", 2),)},
    "moco-v2-imagenet": {
        **RESNET, **MOCO, "method.momentum": 0.999, "optim.name": "sgd", "optim.lr": 0.03,
        "optim.weight_decay": 1e-4, "batch_size": 256, "views": (("moco", 2),), "epochs": 200,
    },
    "moco-v2-cifar10": {
        **SGD, "method.queue_size": 4096, "method.momentum": 0.99, "method.temperature": 0.1,
        "batch_size": 512, "views": (("cifar", 2),),
    },
    "barlow-twins-imagenet": {
        **RESNET, **LARS, "network.projector": [8192] * 3, "optim.lr": 0.2,
        "optim.bias_lr": 0.0048, "optim.weight_decay": 1e-6, "views": (("barlow", 2),),
    },
    "barlow-twins-cifar10": {**LARS, "network.projector": [2048] * 3, "views": (("cifar", 2),)},
    "dino-imagenet": {
        **VIT_S, "method.outputs": 65536, "batch_size": 512, "epochs": 100,
        "views": (("dino", 2), ("dino-local", 8)),
    },
    "dino-cifar10": {
        "network.backbone": "vit-ti", "network.patch": 4, "method.outputs": 4096,
    },
    "ibot-imagenet": {**VIT_S, "method.outputs": 8192, "views": (("ibot", 2),)},
    "ibot-cifar10": {"network.backbone": "vit-ti", "network.patch": 4},
    "deepcluster-v2-imagenet": {**RESNET, **DC, "views": (("swav", 2),)},
    "deepcluster-v2-cifar10": {**SGD},
    "hvp-simsiam-imagenet": {
        **RESNET, **HVP, "views": (("simsiam", 4),), "optim.lr": 0.05, "batch_size": 512,
        "epochs": 100,
    },
    "hvp-simsiam-cifar10": {**SIMSIAM, **HVP, "views": (("cifar", 4),), "optim.lr": 0.06},
    "hvp-simclr-imagenet": {
        **RESNET, **LARS, **HVP, "views": (("simclr", 4),), "optim.lr": 0.3, "batch_size": 4096,
        "optim.weight_decay": 1e-4, "network.zero_init": True, "method.temperature": 0.1,
        "epochs": 100,
    },
    "hvp-dino-vits": {
        **VIT_S, **HVP, "strategy.limit": 128, "views": (("dino", 4), ("dino-local", 16)),
        "batch_size": 512, "epochs": 100, "size": 224,
    },
    "hvp-dino-vitb": {
        **VIT, **HVP, "strategy.limit": 128, "views": (("dino-vitb", 4), ("dino-vitb-local", 20)),
        "batch_size": 1024, "epochs": 400, "optim.lr": 7.5e-4, "optim.min_lr": 2e-6,
        "optim.clip": 0.3, "method.frozen_epochs": 3, "method.teacher_temperature_start": 0.04,
        "method.teacher_temperature": 0.07, "method.teacher_warmup_epochs": 50,
        "network.backbone": "vit-b", "network.drop_path": 0.1, "precision": "fp32",
    },
    "hvp-ibot": {**VIT_S, **HVP, "views": (("ibot", 4),), "method.outputs": 8192},
    "gs-simclr-cifar10": {
        **GS, **LARS, "method.temperature": 0.5, "network.projector": [512, 128],
        "optim.lr": 0.3, "optim.weight_decay": 1e-6, "batch_size": 1024,
        "strategy.allow_scale_change": True, "views": (("gs-simclr", 2),),
    },
    "gs-simsiam-cifar10": {
        **SIMSIAM, **GS, "method.scale": "mse", "batch_size": 256, "views": (("gs-simsiam", 2),),
    },
    "dssl-simsiam-cifar10": {**DSSL, "views": heavy("paper"), "strategy.name": "dssl"},
    "dssl-simclr-cifar10": {
        **SGD, "views": heavy("paper"), "strategy.name": "dssl", "strategy.heavy_views": 2,
        "strategy.target_grad": True, "method.temperature": 0.5, "epochs": 800,
    },
    "dssl-byol-cifar10": {
        **SGD, "views": heavy("paper"), "strategy.name": "dssl", "method.scale": "half",
        "method.momentum": 0.99, "method.momentum_schedule": "constant", "batch_size": 512,
        "optim.warmup_epochs": 9, "optim.warmup": "per_epoch", "epochs": 800,
    },
    "dssl-fig4-c": {**DSSL, "views": (("cifar+ra16", 2),), "strategy.name": "standard"},
    "dssl-fig4-d": {**DSSL, "views": (("cifar", 1), ("ra16", 1)), "strategy.name": "standard"},
    "dssl-fig4-e": {**DSSL, "views": (("cifar", 1), ("ra16/0", 1)), "strategy.name": "standard"},
    "dssl-fig4-f": {**DSSL, "views": heavy("ra16"), **dssl_arm(1, 1, 0, 0)},
    "dssl-fig4-g": {
        **DSSL, "views": (("cifar", 2), ("ra16", 1)), **dssl_arm(0, 0, 1, 0),
        "strategy.derive": "from_sample", "strategy.heavy_views": 1,
    },
    "dssl-fig4-h": {**DSSL, "views": heavy("ra16"), **dssl_arm(1, 0, 1, 1)},
    "dssl-fig4-i": {
        **DSSL, "views": (("cifar", 2), ("ra16", 2)), **dssl_arm(1, 0, 1, 0),
        "strategy.derive": "from_sample",
    },
    "dssl-fig4-j": {**DSSL, "views": heavy("ra16"), **dssl_arm(1, 0, 1, 0)},
    "stn-dino-cifar10": {
        **VIT, "method.name": "dino", "method.outputs": 32768, "network.backbone": "vit-ti8",
        "network.patch": 4, "batch_size": 256, "epochs": 300, "optim.warmup_epochs": 30, "size": 32,
        "strategy.name": "stn", "strategy.mode": "translation_scale_symmetric",
        "strategy.penalty": "tcp", "strategy.eps": 10.0, "views": (("source", 1),),
    },
    "hexa-moco-imagenet": {
        **RESNET, **MOCO, **hexa(1, 0), "method.momentum": 0.99, "optim.lr": 0.03,
        "views": (("moco", 2),), "batch_size": 256, "epochs": 200,
    },
    "hexa-dc-imagenet": {
        **RESNET, **DC, **hexa(1, 0), "views": (("swav", 2),), "batch_size": 256, "epochs": 200,
    },
    "hexa-dc8-imagenet": {
        **RESNET, **DC, **hexa(1, 0), "views": (("swav", 2), ("swav-local", 6)),
        "batch_size": 4096, "epochs": 200,
    },
    "hexa-dc8plus": {
        **RESNET, **DC, **hexa(1, 1), "views": (("swav", 2), ("swav-local", 6)),
        "batch_size": 4096, "epochs": 200,
    },
    "hexa-ablation-moco": {
        **RESNET, **MOCO, "method.momentum": 0.99, "views": (("moco", 2),), "epochs": 20,
    },
    "hexa-ablation-dc": {
        **RESNET, **DC, "views": (("swav", 2), ("swav-local", 4)), "size": 160, "local_size": 96,
        "epochs": 5,
    },
    "hexa-moco-cifar10": {
        **SGD, "method.queue_size": 4096, "method.name": "moco-v2", "batch_size": 512,
        "epochs": 200, "views": (("cifar", 2),),
    },
} | {
    f"{arm}-simclr-{data}": {**CA_DATA[data], **CA_VIEWS[arm]}
    for arm, data in product(CA_VIEWS, CA_DATA)
} | {
    f"viewmaker-simclr-{data}": {
        **VIEWMAKER, **values, "views": (("source", 2),), "strategy.name": "viewmaker",
        "strategy.lr": 1e-3,
    }
    for data, values in VIEWMAKER_DATA.items()
} | {
    f"viewmaker-a2-simclr-{data}": {
        **VIEWMAKER, **values, "views": (("cifar", 2), ("source", 1)),
        "strategy.name": "viewmaker,a2", "strategy.alpha": VIEWMAKER_ALPHA[data],
    }
    for data, values in VIEWMAKER_DATA.items()
}  # fmt: skip


def values_of(name: str) -> dict[str, Any]:
    return merged(preset_layers(name))


def test_these_presets_are_there() -> None:
    assert set(preset_names()) == NAMES == set(PAPERS)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_preset_has_the_values_of_its_paper(name: str) -> None:
    expected = dict(PAPERS[name])
    if "views" in expected:
        expected["views"] = [policy for policy, count in expected["views"] for _ in range(count)]
    found = values_of(name)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_name_says_strategy_method_and_data(name: str) -> None:
    """Cosine schedules but of ViewMaker, a length in epochs, and online policies that exist."""
    values = values_of(name)
    schedule = "constant" if name.startswith("viewmaker") else "cosine"
    assert values.get("optim.schedule", "cosine") == schedule
    assert values.get("optim.momentum", 0.9) == 0.9
    assert isinstance(values["epochs"], int)
    for view in values["views"]:
        word = view.partition("/")[0].removeprefix("w-search+")
        assert policies(word)
    first = (
        name.partition("-simclr-")[0].replace("-", ",")
        if "viewmaker" in name
        else name.split("-")[0]
    )
    strategies = {"ca": "standard", "gs": "graded"} | dict.fromkeys(EIGHT, "standard")
    if not name.startswith(EIGHT) and "fig4" not in name:
        assert values.get("strategy.name", "standard") == strategies.get(first, first)
    else:
        assert values["method.name"] in (*EIGHT, "simsiam")
    if name.startswith(EIGHT):
        assert values["method.name"] == name.rpartition("-")[0]
        assert "strategy.name" not in values


def test_every_preset_makes_settings() -> None:
    made = {name: PretrainConfig.of(values_of(name)) for name in NAMES}
    for config in made.values():
        assert PretrainConfig.of(config.to_json()) == config
    assert made["hvp-simsiam-cifar10"].method == METHODS["simsiam"]()
    assert made["simsiam-cifar10"].method.HEAD["projector"] == (2048, 2048)
    assert made["a2-simclr-cifar10"].strategy.name == "a2"


def slot_of(view: str, number: int, size: int) -> Slot:
    """Return what a loader would deliver for a word of `--views`; w-search has generated views."""
    word, _, parent = view.partition("/")
    rows = policies(word.removeprefix("w-search+"))
    policy = rows[number % len(rows)]
    role = "generated" if word.startswith("w-search") else policy.role
    columns = frozenset(column.name for column in policy.columns)
    return Slot(role, size, columns, int(parent or -1), view)


def test_every_preset_trains_on_its_views() -> None:
    """No strategy refuses the method or the views, and the queue holds whole batches."""
    for name in NAMES:
        config = PretrainConfig.of(values_of(name))
        assert config.size is not None
        slots = [slot_of(view, number, config.size) for number, view in enumerate(config.views)]
        config.strategy.check(config.method.traits, slots)
        assert vars(config.method).get("queue_size", 0) % config.batch_size == 0


@pytest.mark.parametrize("name", ["hvp-simsiam-cifar10", "simclr-imagenet"])
def test_a_preset_is_overridden(name: str) -> None:
    line = {"optim.lr": 1.0, "network.backbone": "conv3", "steps": 3, "strategy.name": "standard"}
    layers = [*preset_layers(name), Layer("the command line", {**line, "views": "cifar,cifar"})]
    config = PretrainConfig.of(merged(layers))
    assert (config.optim.lr, config.network.backbone) == (1.0, "conv3")
    assert (config.steps, config.epochs, config.strategy.name) == (3, None, "standard")
    assert config.views == ("cifar", "cifar")


def test_an_unknown_preset_says_which_is_near_and_where_they_are() -> None:
    with pytest.raises(ConfigError, match="no preset 'simsiam-cifar'; did you mean") as caught:
        preset_layers("simsiam-cifar")
    assert (caught.value.code, caught.value.fix) == (
        "VS102", "docs/training.md lists the presets",
    )  # fmt: skip
    for name in ("../config", "/etc/passwd", "simsiam-cifar10.toml"):
        with pytest.raises(ConfigError, match="no preset"):
            preset_layers(name)


TRAINING = Path(__file__).parents[3] / "docs" / "training.md"


def preset_table() -> str:
    """Return the table of presets as the page on training has it."""
    lines = ["| preset | method | strategy | views | network | samples, epochs | optimizer |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in preset_names():
        values = values_of(name)
        views = [f"{len(list(group))} `{word}`" for word, group in groupby(values["views"])]
        optim = {key.removeprefix("optim."): v for key, v in values.items() if "optim." in key}
        lines.append(
            f"| `{name}` | {values['method.name']} | {values.get('strategy.name', 'standard')} "
            f"| {', '.join(views)} | {values.get('network.backbone', 'resnet18')} "
            f"| {values['batch_size']}, {values['epochs']} "
            f"| {optim['name']} {optim['lr']:g}, wd {optim['weight_decay']:g} |"
        )
    return "\n".join(lines)


def test_the_page_on_training_lists_the_presets() -> None:
    """What `preset_table` gives is what stands between the two marks."""
    page = TRAINING.read_text()
    begin, end = "<!-- presets: begin -->\n", "\n<!-- presets: end -->"
    assert page.partition(begin)[2].partition(end)[0] == preset_table()


@pytest.mark.parametrize(("title", "names"), [("Methods", METHODS), ("Strategies", STRATEGIES)])
def test_the_page_on_training_has_every_method_and_strategy(title: str, names: Any) -> None:  # noqa: ANN401
    section = TRAINING.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z][\w-]*)` \|", section, re.MULTILINE)) == set(names)
