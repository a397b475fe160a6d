"""Progress bars: widgets in JupyterLab, plain text where `BIGRAMLIB_TEXT_PROGRESS` is set (headless runs)."""

import os

if os.environ.get("BIGRAMLIB_TEXT_PROGRESS"):
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
