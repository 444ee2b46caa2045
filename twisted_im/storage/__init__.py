"""The back ends of `IStore`: one module for each. All pass one contract suite."""
