"""normdrop: does batch normalization go before dropout, or after?"""
