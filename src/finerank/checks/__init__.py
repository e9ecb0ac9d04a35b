"""The leak checker: a prepared data set against the raw log, recomputed by other means."""
