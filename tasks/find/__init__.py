"""Learning rate and batch size for a recipe, by the finders of Lightning's `Tuner` on its model and its data.

python -m tasks.find lr configs/detect/quickstart.yaml --write curve.csv
python -m tasks.find batch_size configs/detect/quickstart.yaml --mode binsearch
"""
