"""Drop-ins: the names and the behaviour of other libraries, on interlock's objects; a user changes one import line."""
