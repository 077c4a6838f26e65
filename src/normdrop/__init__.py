"""normdrop: does batch normalization go before dropout, or after?"""

import os

# Before MKL's first call: unless told not to, it rounds a matrix product by where the operands lie in memory, and so by
# a replicate's place in the stack. Where every slice is aligned no bit differs.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
