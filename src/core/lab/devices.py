"""Where a chapter computes: its parameter `device`, checked before anything runs."""


def choose_device(name: str) -> str:
    """Return the torch device that a chapter's `device` parameter means on this machine.

    Args:
        name: `"auto"` (a GPU where there is one), `"cpu"`, `"cuda"`, or one of several, `"cuda:1"`.

    Returns:
        A name that torch accepts here.

    Raises:
        ValueError: no such device; the message says what is needed.
    """
    import torch  # the library's dependency; the lab itself is light

    there = torch.cuda.device_count()
    if name == "auto":
        return "cuda" if there else "cpu"
    kind, _, index = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (not index or index.isdigit())):
        raise ValueError(f"want device auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and int(index or 0) >= there:
        raise ValueError(
            f"needs a CUDA GPU for device={name!r}, found {there}; or take device='cpu'"
        )
    return name
