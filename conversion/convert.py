"""Convert a CvT checkpoint to a file, or to a repository on the Hub.

    python conversion/convert.py CvT-13-224x224-IN-1k.pth model.keras
    python conversion/convert.py cvt13/imagenet hf://org/cvt-13 --dry-run
    python conversion/convert.py --all hf://org

This is `keras-cvt convert`; see `python conversion/convert.py --help`.
"""

import sys

from keras_cvt.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
