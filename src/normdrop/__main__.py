"""python -m normdrop: the command line."""

from normdrop.study.app import main

if __name__ == "__main__":
    main()
