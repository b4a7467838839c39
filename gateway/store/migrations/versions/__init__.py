"""One file a migration, in the order of `down_revision`."""
