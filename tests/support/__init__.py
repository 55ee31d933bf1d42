"""What tests of several parts share: speech made up, commands run, processes forked, memory measured."""
