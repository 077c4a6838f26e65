"""python -m normdrop: the command line."""

from normdrop.study.app import main

main()
