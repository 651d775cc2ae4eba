"""The core: a pure function from state, model and event to new state and decision."""
