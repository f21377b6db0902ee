"""What trained attention does, as the papers show it: numbers of recorded maps, and the figures made of them.

`maps.py` is what can be said of maps alone, `scale.py` of selective kernels and the size of objects, and `figures.py`
draws. `python -m tasks.analyse RUN` runs all that a run's network allows.
"""
