"""SPACES: extract sentences, then generate a summary that copies from them."""

__all__: list[str] = []
