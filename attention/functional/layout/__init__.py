"""Where the numbers of a map lie, and subsampling; all of it is plain PyTorch.

Read `formats.py` first: the two memory formats of a map. `cells.py` subsamples maps in forms that export for every
height and width, which strided slices and `ceil_mode` do not. `windows.py` cuts maps into windows and back.
"""

from attention.functional.layout.cells import cell_means, every_nth
from attention.functional.layout.formats import channels_last, in_format_of, is_channels_last
from attention.functional.layout.windows import fills_windows, merge_windows, split_windows, window_mask

__all__ = [
    "cell_means",
    "channels_last",
    "every_nth",
    "fills_windows",
    "in_format_of",
    "is_channels_last",
    "merge_windows",
    "split_windows",
    "window_mask",
]
