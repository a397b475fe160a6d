"""Progress bars: widgets in JupyterLab; plain text if `BIGRAMLIB_TEXT_PROGRESS` is set, for runs without a display."""

import os

if os.environ.get("BIGRAMLIB_TEXT_PROGRESS"):
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
