"""The kernels of `training.attention`, in Triton's language; the order of the arguments is that of its calls.

query, key and value lie as their strides say, a row's, a head's and a token's; `gradient`, results and gradients as
(rows, tokens, heads, width), in one piece. A tile has PADDED columns, of which WIDTH are real. `logs` are, of each
query, the binary logarithm of its softmax's sum, `shares` the sum of its result's parts times their gradients.
"""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_NEVER = tl.constexpr(-1e30)
"""The score of a key that is padding: finite, or a tile of nothing else would leave NaN."""


@triton.jit
def _tile(start, tokens, stride, SIZE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Offsets of `SIZE` tokens' columns from token `start` on, and which of them exist."""
    place = start + tl.arange(0, SIZE)
    column = tl.arange(0, PADDED)
    return place[:, None] * stride + column[None, :], (place[:, None] < tokens) & (column[None, :] < WIDTH)


@triton.jit
def _read(part, start, tokens, stride, SIZE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The tile of `SIZE` tokens of one row and head, zero where there is nothing."""
    offsets, exist = _tile(start, tokens, stride, SIZE, WIDTH, PADDED)
    return tl.load(part + offsets, mask=exist, other=0.0)


@triton.jit
def _change(q, k, v, g, b, log, taken, inside):
    """The gradient of a tile's scores, (M, N): softmax's share times what the result's gradient asks of it."""
    scores = (tl.dot(q, tl.trans(k)) + b.to(tl.float32)) * _LOG2E
    share = tl.where(inside[None, :], tl.exp2(scores - log[:, None]), 0.0)
    return share * (tl.dot(g, tl.trans(v)) - taken[:, None])


@triton.jit
def _whose(heads):
    """The row and the head of this program, of which the second number counts both."""
    return (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads


@triton.jit
def forward(
    query, key, value, bias, kept, mixed, logs,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * TILE_M
    row, head = _whose(heads)
    m = first + tl.arange(0, TILE_M)
    q = _read(query + row * query_row + head * query_head, first, tokens, query_token, TILE_M, WIDTH, PADDED)
    most = tl.full([TILE_M], _NEVER, tl.float32)
    total = tl.zeros([TILE_M], tl.float32)
    result = tl.zeros([TILE_M, PADDED], tl.float32)
    key += row * key_row + head * key_head
    value += row * value_row + head * value_head
    bias += head.to(tl.int64) * tokens * tokens
    for start in range(0, tokens, TILE_N):
        n = start + tl.arange(0, TILE_N)
        k = _read(key, start, tokens, key_token, TILE_N, WIDTH, PADDED)
        inside = n < tokens
        b = tl.load(bias + m[:, None] * tokens + n[None, :], mask=(m[:, None] < tokens) & inside[None, :], other=0.0)
        if MASKED:
            inside = tl.load(kept + row * tokens + n, mask=inside, other=0) != 0
        scores = (tl.dot(q, tl.trans(k)) + b.to(tl.float32)) * _LOG2E
        scores = tl.where(inside[None, :], scores, _NEVER)
        now = tl.maximum(most, tl.max(scores, 1))
        fading = tl.exp2(most - now)
        share = tl.exp2(scores - now[:, None])
        total = total * fading + tl.sum(share, 1)
        v = _read(value, start, tokens, value_token, TILE_N, WIDTH, PADDED)
        result = tl.dot(share.to(v.dtype), v, result * fading[:, None])
        most = now
    tl.store(logs + tl.program_id(1).to(tl.int64) * tokens + m, most + tl.log2(total), mask=m < tokens)
    offsets, exist = _tile(first, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
    mixed += row * tokens * heads * WIDTH + head * WIDTH
    tl.store(mixed + offsets, (result / total[:, None]).to(q.dtype), mask=exist)


@triton.jit
def backward_keys(
    query, key, value, bias, kept, gradient, logs, shares, of_key, of_value,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """For one tile of keys: the gradients of keys and values, over all queries. Its tiles are (N, M)."""
    first = tl.program_id(0) * TILE_N
    row, head = _whose(heads)
    n = first + tl.arange(0, TILE_N)
    k = _read(key + row * key_row + head * key_head, first, tokens, key_token, TILE_N, WIDTH, PADDED)
    v = _read(value + row * value_row + head * value_head, first, tokens, value_token, TILE_N, WIDTH, PADDED)
    inside = n < tokens
    if MASKED:
        inside = tl.load(kept + row * tokens + n, mask=inside, other=0) != 0
    k_gradient = tl.zeros([TILE_N, PADDED], tl.float32)
    v_gradient = tl.zeros([TILE_N, PADDED], tl.float32)
    query += row * query_row + head * query_head
    gradient += row * tokens * heads * WIDTH + head * WIDTH
    bias += head.to(tl.int64) * tokens * tokens
    logs += tl.program_id(1).to(tl.int64) * tokens
    shares += tl.program_id(1).to(tl.int64) * tokens
    for start in range(0, tokens, TILE_M):
        m = start + tl.arange(0, TILE_M)
        real = m < tokens
        q = _read(query, start, tokens, query_token, TILE_M, WIDTH, PADDED)
        g = _read(gradient, start, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
        b = tl.load(bias + m[None, :] * tokens + n[:, None], mask=real[None, :] & (n < tokens)[:, None], other=0.0)
        log = tl.load(logs + m, mask=real, other=0.0)
        taken = tl.load(shares + m, mask=real, other=0.0)
        scores = (tl.dot(k, tl.trans(q)) + b.to(tl.float32)) * _LOG2E
        share = tl.where(inside[:, None] & real[None, :], tl.exp2(scores - log[None, :]), 0.0)
        v_gradient = tl.dot(share.to(g.dtype), g, v_gradient)
        change = share * (tl.dot(v, tl.trans(g)) - taken[None, :])
        k_gradient = tl.dot(change.to(q.dtype), q, k_gradient)
    offsets, exist = _tile(first, tokens, heads * WIDTH, TILE_N, WIDTH, PADDED)
    offsets += row * tokens * heads * WIDTH + head * WIDTH
    tl.store(of_key + offsets, k_gradient.to(k.dtype), mask=exist)
    tl.store(of_value + offsets, v_gradient.to(v.dtype), mask=exist)


@triton.jit
def backward_queries(
    query, key, value, bias, kept, gradient, logs, shares, of_query,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """For one tile of queries: their gradient, over all keys."""
    first = tl.program_id(0) * TILE_M
    row, head = _whose(heads)
    m = first + tl.arange(0, TILE_M)
    real = m < tokens
    q = _read(query + row * query_row + head * query_head, first, tokens, query_token, TILE_M, WIDTH, PADDED)
    own = row * tokens * heads * WIDTH + head * WIDTH
    g = _read(gradient + own, first, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
    log = tl.load(logs + tl.program_id(1).to(tl.int64) * tokens + m, mask=real, other=0.0)
    taken = tl.load(shares + tl.program_id(1).to(tl.int64) * tokens + m, mask=real, other=0.0)
    q_gradient = tl.zeros([TILE_M, PADDED], tl.float32)
    key += row * key_row + head * key_head
    value += row * value_row + head * value_head
    bias += head.to(tl.int64) * tokens * tokens
    for start in range(0, tokens, TILE_N):
        n = start + tl.arange(0, TILE_N)
        inside = n < tokens
        k = _read(key, start, tokens, key_token, TILE_N, WIDTH, PADDED)
        v = _read(value, start, tokens, value_token, TILE_N, WIDTH, PADDED)
        b = tl.load(bias + m[:, None] * tokens + n[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        if MASKED:
            inside = tl.load(kept + row * tokens + n, mask=inside, other=0) != 0
        change = _change(q, k, v, g, b, log, taken, inside)
        q_gradient = tl.dot(change.to(k.dtype), k, q_gradient)
    offsets, exist = _tile(first, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
    tl.store(of_query + own + offsets, q_gradient.to(q.dtype), mask=exist)


@triton.jit
def backward_bias(
    query, key, value, bias, kept, gradient, logs, shares, of_bias,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens, rows,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """For one tile of one head's bias: its gradient, over all rows."""
    first_m, first_n, head = tl.program_id(0) * TILE_M, tl.program_id(1) * TILE_N, tl.program_id(2)
    m, n = first_m + tl.arange(0, TILE_M), first_n + tl.arange(0, TILE_N)
    real, inside = m < tokens, n < tokens
    square = head.to(tl.int64) * tokens * tokens + m[:, None] * tokens + n[None, :]
    b = tl.load(bias + square, mask=real[:, None] & inside[None, :], other=0.0)
    total = tl.zeros([TILE_M, TILE_N], tl.float32)
    for number in range(rows):
        row = tl.full([], number, tl.int64)
        q = _read(query + row * query_row + head * query_head, first_m, tokens, query_token, TILE_M, WIDTH, PADDED)
        k = _read(key + row * key_row + head * key_head, first_n, tokens, key_token, TILE_N, WIDTH, PADDED)
        v = _read(value + row * value_row + head * value_head, first_n, tokens, value_token, TILE_N, WIDTH, PADDED)
        own = row * tokens * heads * WIDTH + head * WIDTH
        g = _read(gradient + own, first_m, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
        log = tl.load(logs + (row * heads + head) * tokens + m, mask=real, other=0.0)
        taken = tl.load(shares + (row * heads + head) * tokens + m, mask=real, other=0.0)
        there = inside
        if MASKED:
            there = tl.load(kept + row * tokens + n, mask=inside, other=0) != 0
        total += _change(q, k, v, g, b, log, taken, there)
    tl.store(of_bias + square, total, mask=real[:, None] & inside[None, :])
