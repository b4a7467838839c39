"""T5's encoder and one step of its decoder as ONNX graphs, with the operators ONNX Runtime is fast in on a CPU.

`encoder_graph` reads one prompt and gives every decoder layer's cross-attention keys and values in 8 bits;
`decoder_graph` feeds tokens to the live rows over caches that stay where they are. What each input means is
told where they are filled: handler/engines/onnx_engine.py. Operators of the domain com.microsoft are documented in
ONNX Runtime's docs/ContribOperators.md.
"""

from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from handler.engines.t5_geometry import T5Geometry
from handler.engines.torch_weights import T5Weights
from training.quantization import BLOCK, by_block, by_channel

_OPSETS: Final = {"": 23, "com.microsoft": 1}
_IR_VERSION: Final = 11


class _Graph:
    """Nodes and constants, named as they come."""

    def __init__(self, geometry: T5Geometry) -> None:
        self.geometry = geometry
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        array = value.detach().float().numpy() if hasattr(value, "detach") else np.asarray(value)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list[str | int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def node(
        self, operator: str, *inputs: str, outputs: int | list[str] = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node; return its output's name, or a list of names where there are several."""
        names = outputs if isinstance(outputs, list) else [f"value_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def norm(self, hidden: str, weight: Any) -> str:
        """Root mean square norm, no mean, no bias."""
        return str(
            self.node("SimplifiedLayerNormalization", hidden, self.constant(weight), epsilon=self.geometry.epsilon)
        )

    def add_and_norm(self, hidden: str, branch: str, weight: Any) -> tuple[str, str]:
        """Return (hidden + branch, its norm), one operator."""
        names = [f"value_{len(self.nodes)}_{part}" for part in ("normed", "sum")]
        inputs = [hidden, branch, self.constant(weight)]
        outputs = [names[0], "", "", names[1]]
        epsilon = self.geometry.epsilon
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization", inputs, outputs, domain="com.microsoft", epsilon=epsilon
            )
        )
        return names[1], names[0]

    def rounded_by_tensor(self, hidden: str) -> list[str]:
        """Round to 8 bits, all of `hidden` alike: for `linear_by_tensor`, as often as it is multiplied."""
        return list(self.node("DynamicQuantizeLinear", hidden, outputs=3))

    def linear_by_tensor(self, rounded: list[str], weight: Any, steps: NDArray[np.float32] | None = None) -> str:
        """Multiply in 8 bits; `steps` divide the outputs, shape (outputs,)."""
        values, scales = by_channel(weight.float().numpy())
        if steps is not None:
            scales = scales / steps
        hidden, step, zero_point = rounded
        inputs = [hidden, self.constant(values), step, self.constant(scales), zero_point]
        return str(self.node("MatMulIntegerToFloat", *inputs, domain="com.microsoft"))

    def linear_8(self, hidden: str, weight: Any, *, positive: bool = False, outputs: int | list[str] = 1) -> str:
        """Multiply each row, rounded to 8 bits by its own largest value: whole sums, the same in any company.

        `positive` tells that nothing in `hidden` is negative. A row of zeros is divided by zero; what comes of that
        is multiplied by zero in the end.
        """
        steps, zero = (255, 0) if positive else (127, 128)
        step, zero_point = self.constant(np.float32(1 / steps)), self.constant(np.uint8(zero))
        size = hidden if positive else self.node("Abs", hidden)
        largest = self.node("ReduceMax", size, self.constant([-1]), keepdims=1)
        rounded = self.node("QuantizeLinear", self.node("Div", hidden, largest), step, zero_point)
        values, scales = (self.constant(array) for array in by_channel(weight.float().numpy()))
        inputs = [rounded, values, step, scales, zero_point]
        product = self.node("MatMulIntegerToFloat", *inputs, domain="com.microsoft")
        return str(self.node("Mul", product, largest, outputs=outputs))

    def linear_4(self, hidden: str, weight: Any) -> str:
        """Multiply by weights in 4 bits, and by activations in 8, block by block within a row."""
        values, scales = (self.constant(array) for array in by_block(weight.float().numpy()))
        return str(
            self.node(
                "MatMulNBits",
                hidden,
                values,
                scales,
                domain="com.microsoft",
                N=weight.shape[0],
                K=weight.shape[1],
                bits=4,
                block_size=BLOCK,
                accuracy_level=4,  # activations in 8 bits
            )
        )

    def model(self, metadata: dict[str, str]) -> ModelProto:
        graph = helper.make_graph(self.nodes, "t5", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="godel-serve")
        helper.set_model_props(model, metadata)
        return model


def encoder_graph(
    geometry: T5Geometry, weights: T5Weights, cross_scales: NDArray[np.float32], metadata: dict[str, str]
) -> ModelProto:
    """Return the encoder and the cross-attention's key and value projections.

    Activations are quantised a tensor at a time, as the prompt comes; weights by output channel. `cross_scales`,
    shape (decoder_layers * 2 * inner,), is what one step of the 8-bit keys and values stands for.
    """
    graph = _Graph(geometry)
    rounded, linear = graph.rounded_by_tensor, graph.linear_by_tensor
    hidden = graph.input("embeddings", TensorProto.FLOAT, [1, "length", geometry.d_model])
    bias = graph.input("bias", TensorProto.FLOAT, [1, geometry.heads, "length", "length"])
    normed = graph.norm(hidden, weights.encoder[0][0].norm)
    next_norms = [attention.norm for attention, _ in weights.encoder[1:]] + [weights.encoder_norm]
    for (attention, feed_forward), next_norm in zip(weights.encoder, next_norms, strict=True):
        once = rounded(normed)
        # One product of all three would have to be split after it, a copy of 4 MB a layer at 450 tokens of T5-base.
        parts = [linear(once, weight) for weight in attention.query_key_value.chunk(3)]
        mixed = graph.node(
            "Attention", *parts, bias, q_num_heads=geometry.heads, kv_num_heads=geometry.heads, scale=1.0
        )
        hidden, normed = graph.add_and_norm(hidden, linear(rounded(mixed), attention.output), feed_forward.norm)
        inner = graph.node("Relu", linear(rounded(normed), feed_forward.inner))
        hidden, normed = graph.add_and_norm(hidden, linear(rounded(inner), feed_forward.output), next_norm)
    # Layer by layer: all at once would be the most memory that a prompt needs. The projection's own scales carry the
    # division by the steps, so that what it gives need only be rounded.
    shape = graph.constant([-1, 2, geometry.heads, geometry.d_kv])
    one, zero = graph.constant(np.float32(1)), graph.constant(np.int8(0))
    once = rounded(normed)
    layers = zip(
        weights.cross_key_value.chunk(geometry.decoder_layers),
        np.split(cross_scales, geometry.decoder_layers),
        strict=True,
    )
    for layer, (weight, scales) in enumerate(layers):
        in_steps = graph.node("QuantizeLinear", linear(once, weight, scales), one, zero)
        graph.node("Transpose", graph.node("Reshape", in_steps, shape), perm=[1, 2, 0, 3], outputs=[f"cross_{layer}"])
        graph.output(f"cross_{layer}", TensorProto.INT8, [2, geometry.heads, "length", geometry.d_kv])
    return graph.model(metadata)


def decoder_graph(
    geometry: T5Geometry, weights: T5Weights, cross_scales: NDArray[np.float32], bits: int, metadata: dict[str, str]
) -> ModelProto:
    """Return one step of the decoder, with linear layers in `bits` bits, 8 or 4, and the head in 8.

    Its rows do not see each other: norms and products work row by row, activations are quantised within a row,
    and attention runs over each row's own length.
    """
    graph = _Graph(geometry)
    heads, width = geometry.heads, geometry.d_kv

    linear = graph.linear_8 if bits == 8 else graph.linear_4
    linear_of_positive = partial(graph.linear_8, positive=True) if bits == 8 else graph.linear_4

    def attend(inputs: list[str], caches: list[str], kind: int, capacity: str, **attributes: Any) -> str:
        outputs = [f"value_{len(graph.nodes)}_mixed", *[f"new_{cache}" for cache in caches]]
        for cache, new in zip(caches, outputs[1:], strict=True):
            shape: list[str | int] = ["rows", heads, capacity, width]
            graph.input(cache, kind, shape)
            graph.output(new, kind, shape)
        graph.node(
            "GroupQueryAttention",
            *inputs,
            outputs=outputs,
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=heads,
            scale=1.0,
            **attributes,
        )
        return outputs[0]

    hidden = graph.input("embeddings", TensorProto.FLOAT, ["rows", "tokens", geometry.d_model])
    bias = graph.input("bias", TensorProto.FLOAT, ["rows", heads, "padded", "self_capacity"])
    fed = graph.input("fed", TensorProto.INT32, ["rows"])
    self_last = graph.input("self_last", TensorProto.INT32, ["rows"])
    self_capacity = graph.input("self_capacity", TensorProto.INT32, [])
    cross_last = graph.input("cross_last", TensorProto.INT32, ["rows"])
    cross_longest = graph.input("cross_longest", TensorProto.INT32, [])
    padding = graph.input("padding", TensorProto.INT64, [6])
    tokens = graph.input("tokens", TensorProto.INT64, [1])
    graph.output("logits", TensorProto.FLOAT, ["rows", "tokens", geometry.vocabulary])
    start, along = graph.constant([0]), graph.constant([1])
    # Nothing new to append: cross-attention over keys that are all there.
    none = graph.constant(np.zeros((1, 0, geometry.inner), np.float32))
    empty = graph.node("Expand", none, graph.node("Concat", graph.node("Shape", fed), graph.constant([0, 1]), axis=0))
    # Keys and values stay in steps of their channels: queries are multiplied by them before, what was mixed after.
    # Within, the operator would multiply every key and value of every row.
    steps = cross_scales.reshape(geometry.decoder_layers, 2, geometry.inner)
    in_steps = graph.constant(np.ones(1, np.float32))

    normed = graph.norm(hidden, weights.decoder[0][0].norm)
    last_norm = weights.decoder_norm * (geometry.d_model**-0.5 if geometry.scale_output else 1.0)
    next_norms = [attention.norm for attention, _, _ in weights.decoder[1:]] + [last_norm]
    for layer, ((attention, cross, feed_forward), next_norm) in enumerate(
        zip(weights.decoder, next_norms, strict=True)
    ):
        # The engine says why a single token is padded to two.
        packed = graph.node("Pad", linear(normed, attention.query_key_value), padding)
        inputs = [packed, "", "", f"self_key_{layer}", f"self_value_{layer}", self_last, self_capacity, "", "", ""]
        inputs += [bias, "", "", "", "", "", fed]
        mixed = attend(inputs, inputs[3:5], TensorProto.FLOAT, "self_capacity", causal=1)
        mixed = graph.node("Slice", mixed, start, tokens, along)
        hidden, normed = graph.add_and_norm(hidden, linear(mixed, attention.output), cross.norm)
        key_steps, value_steps = steps[layer]
        query = linear(normed, cross.query * torch.from_numpy(key_steps)[:, None])
        inputs = [query, empty, empty, f"cross_key_{layer}", f"cross_value_{layer}", cross_last, cross_longest]
        inputs += ["", "", "", "", "", in_steps, in_steps]
        quantised = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
        mixed = attend(inputs, inputs[3:5], TensorProto.INT8, "cross_capacity", causal=0, **quantised)
        mixed = graph.node("Mul", mixed, graph.constant(value_steps))
        hidden, normed = graph.add_and_norm(hidden, linear(mixed, cross.output), feed_forward.norm)
        inner = graph.node("Relu", linear(normed, feed_forward.inner))
        hidden, normed = graph.add_and_norm(hidden, linear_of_positive(inner, feed_forward.output), next_norm)
    # The head decides between tokens that are nearly alike: it keeps 8 bits whatever the rest has.
    graph.linear_8(normed, weights.head, outputs=["logits"])
    return graph.model(metadata)
