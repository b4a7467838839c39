"""Counting tokens as the served model does; the only file of the gateway that knows `tokenizers`."""

from collections.abc import Callable

from gateway.errors import Misconfigured

CountTokens = Callable[[str], int]


def token_counter(tokenizer: str) -> CountTokens:
    """Return a function that counts the tokens of a text, the end token included.

    `tokenizer` is the text of a `tokenizer.json`. Raises Misconfigured when it is none.
    The function may be called from several threads at once.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises plain Exception
        raise Misconfigured(f"tokenizer: cannot be read: {error}") from error
    # A file may carry padding or truncation left from training; either would falsify the count.
    loaded.no_padding()
    loaded.no_truncation()
    # `encode_batch_fast` counts as `encode` does, but lets other threads run meanwhile.
    return lambda text: len(loaded.encode_batch_fast([text])[0])
