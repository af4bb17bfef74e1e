"""Images -> features of a frozen pretrained network.

`models` is the table of backbones, `weights` builds and fills one, `transforms` prepares pictures, `images` finds and
reads them, `activations` taps the layers, `extractor` is the one loop, `embeddings` the file of features, `pca` the
reduction, `processor` what is asked to become of the features, `provenance` where they come from, `stages` a whole job.
"""
