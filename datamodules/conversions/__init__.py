"""Other layouts of boxes, read into COCO's: one file each."""
