"""Convert a CvT checkpoint: strict load, comparison, saved file.

The same as `keras-cvt convert`; see `python conversion/convert.py --help`.
"""

import sys

from keras_cvt.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
