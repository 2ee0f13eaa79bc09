# fleet/snapshot.py is compiled as it stands: requests call its methods.
