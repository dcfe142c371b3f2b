"""Reference rows that papers leave out: chance, popularity, transitions, neighbours, linear."""
