"""What scores and learns: the contract, the models behind it, their snapshots."""
