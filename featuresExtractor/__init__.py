"""Images -> features of a frozen pretrained network.

`models` is the table of backbones, `transforms` prepares images, `processor` says what becomes of the layers; `images`
finds and reads images, `backbones` builds and runs the networks, `features` is the file between both halves, `pca` the
reduction, `pipeline` the whole.
"""
