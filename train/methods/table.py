"""The table of methods: name -> settings, one module each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from viewstore.plugins import Plugin, Table
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.base import MethodSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.deepcluster_v2 import DeepClusterV2Settings
from viewstore.train.methods.dino import DINOSettings
from viewstore.train.methods.ibot import IBOTSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.settings import settings_of


def _of_plugin(plugin: Plugin) -> type[MethodSettings]:
    kind: type[MethodSettings] = plugin.load_settings(
        called=lambda settings: getattr(getattr(settings, "TRAITS", None), "name", None)
    )
    return kind


_OWN: Mapping[str, type[MethodSettings]] = {
    "simclr": SimCLRSettings,
    "simsiam": SimSiamSettings,
    "byol": BYOLSettings,
    "moco-v2": MoCoV2Settings,
    "barlow-twins": BarlowTwinsSettings,
    "dino": DINOSettings,
    "ibot": IBOTSettings,
    "deepcluster-v2": DeepClusterV2Settings,
}
METHODS: Table[type[MethodSettings]] = Table("method", _OWN, _of_plugin)


def method_of(name: str, given: Mapping[str, Any]) -> MethodSettings:
    """Return the settings of a method. Raises ConfigError: unknown name or setting."""
    return cast(MethodSettings, settings_of("method", METHODS, [name], given)[0])
