"""Where things run: the executor contract (`base`), this machine (`local`), and what agents may ask of them."""
