"""`python -m keras_cvt.cli`."""

import sys

from keras_cvt.cli import main

sys.exit(main())
