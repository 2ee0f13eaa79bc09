"""The operations of the `/v1` API and its neighbours, declared to ninja."""
