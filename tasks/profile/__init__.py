"""What parts of a model cost on your machine: operators on a map, backbones on an image, a recipe's model by part.

`match` finds the backbone without attention that takes as long as one with it.

python -m tasks.profile attention --size 100x136 --names CBAM,CoordinateAttention,my_package.MyGate
python -m tasks.profile backbones mobilenet_v2_ca elsa_swin_t --size 800x1333
python -m tasks.profile recipe configs/detect/quickstart.yaml --model.backbone.attention CBAM
python -m tasks.profile recipe runs/detect/quickstart
python -m tasks.profile match configs/backbones/resnet50_cbam.yaml --size 320x320
python -m tasks.profile --runs runs/detect
"""
