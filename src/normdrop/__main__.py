"""python -m normdrop: the command line."""

import os
import sys

# Python puts the working folder first, where a file may have the name of a module that is imported from here on.
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if sys.path and os.path.abspath(sys.path[0]) == os.getcwd() != here:
    del sys.path[0]

from normdrop.study.app import main  # noqa: E402

if __name__ == "__main__":
    main()
