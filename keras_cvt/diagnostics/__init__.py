"""What is installed, whether it computes as it should, and what the Hub holds.

Its modules import neither Keras nor a backend by themselves, so that the program
`keras-cvt`, which starts without `import keras_cvt`, can tell what is missing.
"""

from keras_cvt.diagnostics.environment import examine
from keras_cvt.diagnostics.findings import Finding, Status
from keras_cvt.diagnostics.network import check_network
from keras_cvt.diagnostics.published import check_known_logits, check_repositories

__all__ = [
    "Finding",
    "Status",
    "check_known_logits",
    "check_network",
    "check_repositories",
    "examine",
]
