"""Reads modules of torch.export, .pt2 files, so that nothing in them is executed but tensor ops.

`torch.export.load` trusts a file: it unpickles sample inputs and some weights, evaluates text as
expressions and as guards, and resolves functions and modules by name. So a file is checked here
first, and what torch is given is an archive of our own, of what was checked: weights as raw
numbers, and a graph of the ops in OPS on them (docs/decisions/0009-reading-exported-modules.md).
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ViewStoreError
from viewstore.generators.checkpoints.scan import Malformed

MAX_BYTES = 4 << 30
MAX_JSON_BYTES = 64 << 20
MAX_MEMBERS = 100_000
MAX_NESTING = 64
ZIP_START = b"PK\x03\x04"
PROGRAM = re.compile(r"[^/]*/models/[^/]*\.json")
# Ops of networks that see or make pictures: functions of tensors that neither draw nor write.
OPS = frozenset(
    """
    _adaptive_avg_pool2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d
    abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_ addmm alias amax
    argmax argmin avg_pool2d baddbmm batch_norm bmm cat channel_shuffle chunk clamp clamp_
    clamp_max clamp_min clone constant_pad_nd contiguous conv1d conv2d conv_transpose1d
    conv_transpose2d copysign cos detach detach_ div div_ dropout elu embedding eq erf exp expand
    expand_as flatten floor gelu glu group_norm hardsigmoid hardsigmoid_ hardswish hardswish_
    hardtanh hardtanh_ index index_select instance_norm layer_norm leaky_relu leaky_relu_
    lift_fresh_copy linalg_vector_norm linear log log_softmax matmul max max_pool2d maximum mean
    min minimum mish mm movedim mul mul_ narrow neg norm pad permute pixel_shuffle pixel_unshuffle
    pow prelu reciprocal relu relu6 relu_ repeat reshape rms_norm roll round rsqrt rsub
    scaled_dot_product_attention select sigmoid sigmoid_ silu silu_ sin slice softmax softplus
    split split_with_sizes sqrt square squeeze stack sub sub_ sum swapaxes sym_size t tanh tanh_
    tensor_split transpose unbind unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d var view where
    """.split()  # noqa: SIM905
)
TARGET = re.compile(r"torch\.ops\.aten\.([a-z0-9_]+)\.[A-Za-z0-9_]+|_operator\.(getitem|add|mul)")
# Kinds of arguments, of which none names a function, a class, a graph or a file.
ARGUMENTS = frozenset(
    """
    as_none as_tensor as_tensors as_optional_tensors as_int as_ints as_float as_floats as_bool
    as_bools as_sym_int as_sym_ints as_name as_scalar_type as_memory_format as_layout as_string
    """.split()  # noqa: SIM905
)
TEXTS = frozenset({"none", "tanh", "same", "valid", "constant", "reflect", "replicate", "floor"})
_SYMBOL = r"Symbol\('[a-z]{1,8}\d{1,6}'(, (positive|integer|nonnegative)=True)*\)"
EXPRESSION = re.compile(rf"({_SYMBOL}|[a-z]\d{{1,6}}|\d{{1,9}}|[-+,() ]|\*(?!\*)|Add|Mul|Integer)*")
Shape = tuple[int | None, ...]  # None: any extent
SPECS = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


class Exported(nn.Module):
    """A network of others, frozen as it was exported.

    Attributes:
        in_channels: Of the images that it takes, 3.
        policy: "": it names no policy that it was trained with.
        input_size: Height and width of the images that it takes; None: any.
        input_views: How many images it takes at a time; None: any number.
    """

    in_channels = 3
    policy = ""

    def __init__(
        self,
        network: nn.Module,
        *,
        input_size: tuple[int, int] | None,
        input_views: int | None,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.input_size = input_size
        self.input_views = input_views

    def forward(self, x: Tensor) -> Tensor:
        """Return unit features [N, D] of images [N, 1 or 3, H, W], float32 in [0, 1].

        Gray is shown in all three channels; images of another size than its input are resized.

        Raises:
            CheckpointError: As `outputs`.
        """
        x = x.expand(-1, self.in_channels, -1, -1)
        if self.input_size is not None and self.input_size != x.shape[2:]:
            x = F.interpolate(
                x, self.input_size, mode="bilinear", align_corners=False, antialias=True
            )
        return F.normalize(self._features(x), dim=1)

    def _features(self, x: Tensor) -> Tensor:
        """Return the features of any number of images, as many at a time as the network takes."""
        together = self.input_views or len(x)
        filled = torch.cat([x, x[-1:].expand(-len(x) % together, -1, -1, -1)])
        parts = [self.outputs(part)["feature"] for part in torch.split(filled, together)]
        return torch.cat(parts)[: len(x)]

    def unfit(self, what: str) -> ViewStoreError:
        """Return the error for a network that does something else than it must."""
        return unfit(what)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return "feature" [P, D], and "logits" [P, C] if it has any, of images [P, 3, H, W].

        `x` is float32 in [0, 1].

        Raises:
            CheckpointError: It gives something else, or cannot take them.
        """
        found = output_of(self.network, x, refuse=self.unfit)
        outputs = {"feature": found} if isinstance(found, Tensor) else found
        if not isinstance(outputs, dict) or not {"feature"} <= set(outputs) <= {
            "feature",
            "logits",
        }:
            raise self.unfit(
                "it gives neither features [P, D] nor a dict of 'feature' and 'logits'"
            )
        for name, each in outputs.items():
            fits = isinstance(each, Tensor) and each.ndim == 2 and len(each) == len(x)
            if not fits or not each.is_floating_point():
                raise self.unfit(f"its {name} must be floats [{len(x)}, D]")
        return outputs


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, as modules of torch.export are."""
    with path.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def is_module(path: Path) -> bool:
    """Whether a file is an archive of torch.export, not one of torch.save."""
    if not is_archive(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PROGRAM.fullmatch(name) for name in archive.namelist())
    except Exception:  # zipfile raises whatever its fields lead it to
        return False


def read_exported(path: Path) -> Exported:
    """Return the module of torch.export in a file, on the CPU.

    Raises:
        CheckpointError: It is none, or holds more than tensor ops on numbers.
    """
    network, shape = read_module(path)
    if len(shape) != 4 or shape[1] != 3:
        raise unfit(f"it takes {shape_text(shape)}, not images [P, 3, H, W]", where=path)
    size = None if None in shape[2:] else (shape[2], shape[3])
    return Exported(network, input_size=size, input_views=shape[0])  # type: ignore[arg-type]


def read_module(path: Path) -> tuple[nn.Module, Shape]:
    """Return the module of torch.export in a file, on the CPU, and the shape that it takes.

    It takes one float32 tensor, on whose size it may depend; None stands for any extent. What it
    gives is for the caller to look at.

    Raises:
        CheckpointError: It is none, or holds more than tensor ops on numbers.
    """
    try:
        archive = _checked_archive(path)
        program = torch.export.load(archive)
        shape = _input_shape(program)
        network = program.module(check_guards=False)
    except Malformed as error:
        raise unfit(str(error), where=path) from error
    except Exception as error:  # torch raises whatever the fields lead it to
        raise unfit(f"torch cannot read it: {_first_line(error)}", where=path) from error
    return network.requires_grad_(False), shape


def output_of(
    network: nn.Module, x: Tensor, *, refuse: Callable[[str], ViewStoreError] | None = None
) -> Any:  # noqa: ANN401
    """Return what a module of torch.export gives for its input, whatever that is.

    Raises:
        CheckpointError: It cannot take it.
    """
    try:
        return network(x)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        refuse = refuse or unfit
        raise refuse(f"it cannot take {list(x.shape)}: {_first_line(error)}") from error


def unfit(what: str, *, where: Path | None = None) -> CheckpointError:
    """Return the error for a module that cannot be used, which says how to export one that can."""
    return CheckpointError(
        f"module of torch.export cannot be used: {what}",
        where=None if where is None else str(where),
        why="it must take one float32 tensor and be of plain tensor ops, on the CPU, in "
        "evaluation mode; anything else in it might be executed",
        fix="torch.export.export(module.eval().cpu(), (inputs,)), then torch.export.save; where "
        "an expression of sizes is refused, export it for a fixed number of inputs",
    )


def shape_text(shape: Shape) -> str:
    """Return a shape for a message: [any, 3, 32, 32]."""
    return f"[{', '.join('any' if each is None else str(each) for each in shape)}]"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _checked_archive(path: Path) -> io.BytesIO:
    """Return the archive for torch: what was checked, and nothing else of the file."""
    if path.stat().st_size > MAX_BYTES:
        raise Malformed(f"it has more than {MAX_BYTES} bytes")
    try:
        with zipfile.ZipFile(path) as archive:
            return _rewritten(archive, path.stat().st_size)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise Malformed(f"it is cut short or corrupt: {error}") from error


def _rewritten(archive: zipfile.ZipFile, size: int) -> io.BytesIO:
    members = _members(archive, size)
    models = [name for name in members if name.startswith("models/")]
    if len(models) != 1 or not models[0].endswith(".json"):
        raise Malformed(f"it holds {len(models)} modules, not 1")
    name = models[0].removeprefix("models/").removesuffix(".json")
    kept: dict[str, bytes] = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"3\n",
        f"data/sample_inputs/{name}.pt": b"",  # a pickle, which nobody needs
        models[0]: _checked_program(_json(archive, members[models[0]])),
    }
    for kind in ("weights", "constants"):
        place = f"data/{kind}/{name}_{kind}_config.json"
        config = _json(archive, members[place]) if place in members else {"config": {}}
        for file in _checked_payloads(config, f"data/{kind}/", members):
            kept[file] = archive.read(members[file])
        kept[place] = json.dumps(config).encode()
    if members.get("byteorder") and archive.read(members["byteorder"]) != b"little":
        raise Malformed("its numbers are not little-endian")
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as rewritten:
        for file, data in kept.items():
            rewritten.writestr(f"module/{file}", data)
    found.seek(0)
    return found


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name within the one folder. Raises Malformed: one could expand."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise Malformed(f"it has more than {MAX_MEMBERS} members")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise Malformed("a member is compressed, which torch.export.save never does")
    if sum(info.file_size for info in infos) > size:
        raise Malformed("its members are together longer than the file")
    members = {info.filename.partition("/")[2]: info for info in infos}
    if len(members) != len(infos):
        raise Malformed("two members have the same name")
    return members


def _json(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:  # noqa: ANN401
    if member.file_size > MAX_JSON_BYTES:
        raise Malformed(f"{member.filename} has more than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(archive.read(member))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{member.filename} is no JSON: {error}") from error


def _checked_payloads(
    config: Any,  # noqa: ANN401
    folder: str,
    members: Mapping[str, zipfile.ZipInfo],
) -> Iterator[str]:
    """Yield the member of each tensor. Raises Malformed: one is pickled, elsewhere or too long."""
    for name, payload in _mapping(_mapping(config).get("config")).items():
        payload = _mapping(payload)
        meta, file = payload.get("tensor_meta"), f"{folder}{payload.get('path_name')}"
        if payload.get("use_pickle") is not False or meta is None:
            raise Malformed(f"{name} is pickled")
        if file not in members:
            raise Malformed(f"{name} is not in the file")
        _check_values(meta, 0)
        sizes: list[Any] = [
            _mapping(each).get("as_int") for each in _listed(_mapping(meta).get("sizes"))
        ]
        if not all(type(each) is int and each >= 0 for each in sizes):
            raise Malformed(f"{name} has no shape")
        if math.prod(sizes) and not members[file].file_size:  # torch would make zeros of any size
            raise Malformed(f"{name} has no numbers")
        yield file


def _checked_program(program: Any) -> bytes:  # noqa: ANN401
    """Return model.json without what torch does not need to compute."""
    program = _mapping(program)
    module = _mapping(program.get("graph_module"))
    graph = _mapping(module.get("graph"))
    program["guards_code"] = []
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    for node in _listed(graph.get("nodes")):
        _check_node(_mapping(node))
        node["metadata"] = {}
    if graph.get("custom_obj_values"):
        raise Malformed("it holds objects of other classes")
    for output in _listed(_mapping(module.get("signature")).get("output_specs")):
        if set(_mapping(output)) != {"user_output"}:
            raise Malformed("it changes its own weights")
    module["module_call_graph"] = [
        each for each in _listed(module.get("module_call_graph")) if _mapping(each).get("fqn") == ""
    ]
    for call in module["module_call_graph"]:
        signature = _mapping(call.get("signature"))
        for spec in (signature.get("in_spec"), signature.get("out_spec")):
            _check_spec(spec)
    _check_values({key: graph.get(key) for key in graph if key != "nodes"}, 0)
    _check_values(program.get("range_constraints"), 0)
    return json.dumps(program).encode()


def _check_node(node: dict[str, Any]) -> None:
    target = str(node.get("target"))
    match = TARGET.fullmatch(target)
    if match is None or (match[1] is not None and match[1] not in OPS):
        raise Malformed(f"the op {target[:80]} is not known here")
    for argument in _listed(node.get("inputs")):
        name, value = _mapping(argument).get("name"), _mapping(argument.get("arg"))
        if name in ("training", "train") and value.get("as_bool") is not False:
            raise Malformed("it was exported in training mode")
        _check_argument(value)
    _check_values(node.get("outputs"), 0)


def _check_argument(value: dict[str, Any]) -> None:
    """Raise Malformed unless an argument is of a known kind; its kind is its key."""
    ((kind, held),) = value.items() if len(value) == 1 else ((None, None),)
    if kind not in ARGUMENTS:
        raise Malformed(f"it holds an argument of kind {str(kind)[:40]}")
    if kind == "as_string" and held not in TEXTS:
        raise Malformed(f"it holds the text {str(held)[:40]!r}")
    _check_values(held, 0)


def _check_values(value: Any, depth: int) -> None:  # noqa: ANN401
    """Raise Malformed if an expression is more than arithmetic, or a device is not the CPU."""
    if depth > MAX_NESTING:
        raise Malformed(f"it is nested more than {MAX_NESTING} deep")
    if isinstance(value, dict):
        if "expr_str" in value and not _is_arithmetic(value["expr_str"]):
            raise Malformed(f"it holds the expression {str(value['expr_str'])[:40]!r}")
        if value.get("type") not in (None, "cpu") or "as_custom_obj" in value:
            raise Malformed(f"it holds a {str(value.get('type'))[:40]} value")
        for each in value.values():
            _check_values(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check_values(each, depth + 1)


def _is_arithmetic(text: object) -> bool:
    return isinstance(text, str) and len(text) <= 1000 and bool(EXPRESSION.fullmatch(text))


def _check_spec(text: object) -> None:
    """Raise Malformed unless inputs and outputs are tuples, lists and dicts of tensors."""
    if not isinstance(text, str):
        raise Malformed("it does not say what it takes and gives")
    try:
        version, spec = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"it does not say what it takes and gives: {error}") from error
    waiting = [spec]
    while waiting:
        each = _mapping(waiting.pop())
        if version != 1 or each.get("type") not in SPECS:
            raise Malformed(f"it takes or gives a {str(each.get('type'))[:40]}")
        waiting += _listed(each.get("children_spec"))


def _mapping(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise Malformed("an object is missing in its records")
    return value


def _listed(value: Any) -> list[Any]:  # noqa: ANN401
    if not isinstance(value, list):
        raise Malformed("a list is missing in its records")
    return value


def _input_shape(program: Any) -> Shape:  # noqa: ANN401
    """Return the shape of the one input of a module. Raises Malformed: there is no such one."""
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise Malformed(f"it takes {len(names)} inputs, not 1")
    (node,) = (each for each in program.graph.nodes if each.name == names[0])
    value = node.meta["val"]
    shape = tuple(each if isinstance(each, int) else None for each in value.shape)
    if not shape or value.dtype != torch.float32:
        raise Malformed(f"it takes {value.dtype} {list(value.shape)}")
    return shape
