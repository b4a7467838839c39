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


@triton.jit  # type: ignore[untyped-decorator]
def _tile(start, tokens, stride, SIZE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Offsets of `SIZE` tokens' columns from token `start` on, and which of them exist."""
    place = start + tl.arange(0, SIZE)
    column = tl.arange(0, PADDED)
    return place[:, None] * stride + column[None, :], (place[:, None] < tokens) & (column[None, :] < WIDTH)


@triton.jit  # type: ignore[untyped-decorator]
def forward(  # type: ignore[no-untyped-def]
    query, key, value, bias, kept, mixed, logs,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    first, row, head = tl.program_id(0) * TILE_M, (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    m = first + tl.arange(0, TILE_M)
    offsets, exist = _tile(first, tokens, query_token, TILE_M, WIDTH, PADDED)
    q = tl.load(query + row * query_row + head * query_head + offsets, mask=exist, other=0.0)
    most = tl.full([TILE_M], _NEVER, tl.float32)
    total = tl.zeros([TILE_M], tl.float32)
    result = tl.zeros([TILE_M, PADDED], tl.float32)
    key += row * key_row + head * key_head
    value += row * value_row + head * value_head
    bias += head.to(tl.int64) * tokens * tokens
    for start in range(0, tokens, TILE_N):
        n = start + tl.arange(0, TILE_N)
        places, there = _tile(start, tokens, key_token, TILE_N, WIDTH, PADDED)
        k = tl.load(key + places, mask=there, other=0.0)
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
        places, there = _tile(start, tokens, value_token, TILE_N, WIDTH, PADDED)
        v = tl.load(value + places, mask=there, other=0.0)
        result = tl.dot(share.to(v.dtype), v, result * fading[:, None])
        most = now
    tl.store(logs + tl.program_id(1).to(tl.int64) * tokens + m, most + tl.log2(total), mask=m < tokens)
    offsets, exist = _tile(first, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
    mixed += row * tokens * heads * WIDTH + head * WIDTH
    tl.store(mixed + offsets, (result / total[:, None]).to(q.dtype), mask=exist)


@triton.jit  # type: ignore[untyped-decorator]
def backward_keys(  # type: ignore[no-untyped-def]
    query, key, value, bias, kept, gradient, logs, shares, of_key, of_value,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """For one tile of keys: the gradients of keys and values, over all queries. Its tiles are (N, M)."""
    first, row, head = tl.program_id(0) * TILE_N, (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    n = first + tl.arange(0, TILE_N)
    offsets, exist = _tile(first, tokens, key_token, TILE_N, WIDTH, PADDED)
    k = tl.load(key + row * key_row + head * key_head + offsets, mask=exist, other=0.0)
    offsets, exist = _tile(first, tokens, value_token, TILE_N, WIDTH, PADDED)
    v = tl.load(value + row * value_row + head * value_head + offsets, mask=exist, other=0.0)
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
        places, there = _tile(start, tokens, query_token, TILE_M, WIDTH, PADDED)
        q = tl.load(query + places, mask=there, other=0.0)
        places, there = _tile(start, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
        g = tl.load(gradient + places, mask=there, other=0.0)
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


@triton.jit  # type: ignore[untyped-decorator]
def backward_queries(  # type: ignore[no-untyped-def]
    query, key, value, bias, kept, gradient, logs, shares, of_query,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    heads, tokens,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """For one tile of queries: their gradient, over all keys."""
    first, row, head = tl.program_id(0) * TILE_M, (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    m = first + tl.arange(0, TILE_M)
    real = m < tokens
    offsets, exist = _tile(first, tokens, query_token, TILE_M, WIDTH, PADDED)
    q = tl.load(query + row * query_row + head * query_head + offsets, mask=exist, other=0.0)
    result_offsets, exist = _tile(first, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
    result_offsets += row * tokens * heads * WIDTH + head * WIDTH
    g = tl.load(gradient + result_offsets, mask=exist, other=0.0)
    log = tl.load(logs + tl.program_id(1).to(tl.int64) * tokens + m, mask=real, other=0.0)
    taken = tl.load(shares + tl.program_id(1).to(tl.int64) * tokens + m, mask=real, other=0.0)
    q_gradient = tl.zeros([TILE_M, PADDED], tl.float32)
    key += row * key_row + head * key_head
    value += row * value_row + head * value_head
    bias += head.to(tl.int64) * tokens * tokens
    for start in range(0, tokens, TILE_N):
        n = start + tl.arange(0, TILE_N)
        inside = n < tokens
        places, there = _tile(start, tokens, key_token, TILE_N, WIDTH, PADDED)
        k = tl.load(key + places, mask=there, other=0.0)
        places, there = _tile(start, tokens, value_token, TILE_N, WIDTH, PADDED)
        v = tl.load(value + places, mask=there, other=0.0)
        b = tl.load(bias + m[:, None] * tokens + n[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        if MASKED:
            inside = tl.load(kept + row * tokens + n, mask=inside, other=0) != 0
        scores = (tl.dot(q, tl.trans(k)) + b.to(tl.float32)) * _LOG2E
        share = tl.where(inside[None, :], tl.exp2(scores - log[:, None]), 0.0)
        change = share * (tl.dot(g, tl.trans(v)) - taken[:, None])
        q_gradient = tl.dot(change.to(k.dtype), k, q_gradient)
    tl.store(of_query + result_offsets, q_gradient.to(q.dtype), mask=exist)


@triton.jit  # type: ignore[untyped-decorator]
def backward_bias(  # type: ignore[no-untyped-def]
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
    b = tl.load(bias + square, mask=real[:, None] & inside[None, :], other=0.0).to(tl.float32)
    of_q, q_exist = _tile(first_m, tokens, query_token, TILE_M, WIDTH, PADDED)
    of_g, g_exist = _tile(first_m, tokens, heads * WIDTH, TILE_M, WIDTH, PADDED)
    of_k, k_exist = _tile(first_n, tokens, key_token, TILE_N, WIDTH, PADDED)
    of_v, v_exist = _tile(first_n, tokens, value_token, TILE_N, WIDTH, PADDED)
    total = tl.zeros([TILE_M, TILE_N], tl.float32)
    for number in range(rows):
        row = tl.full([], number, tl.int64)
        q = tl.load(query + row * query_row + head * query_head + of_q, mask=q_exist, other=0.0)
        k = tl.load(key + row * key_row + head * key_head + of_k, mask=k_exist, other=0.0)
        v = tl.load(value + row * value_row + head * value_head + of_v, mask=v_exist, other=0.0)
        g = tl.load(gradient + row * tokens * heads * WIDTH + head * WIDTH + of_g, mask=g_exist, other=0.0)
        log = tl.load(logs + (row * heads + head) * tokens + m, mask=real, other=0.0)
        taken = tl.load(shares + (row * heads + head) * tokens + m, mask=real, other=0.0)
        scores = (tl.dot(q, tl.trans(k)) + b) * _LOG2E
        share = tl.exp2(scores - log[:, None])
        if MASKED:
            there = tl.load(kept + row * tokens + n, mask=inside, other=0) != 0
            share = tl.where(there[None, :], share, 0.0)
        total += share * (tl.dot(g, tl.trans(v)) - taken[:, None])
    tl.store(of_bias + square, total, mask=real[:, None] & inside[None, :])
