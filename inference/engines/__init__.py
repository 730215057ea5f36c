"""Networks on runtimes, and the gate that an engine has to pass before it may answer."""
