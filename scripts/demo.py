"""A page on this machine to try a model on: drop a radiograph, see its label and what the model looks at.

    python scripts/demo.py --model out/phantom --classifier out/classifier

`--help` says the rest.
"""

from hf_radmae.cli.demo import main

if __name__ == "__main__":
    main()
