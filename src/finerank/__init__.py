"""finerank: the ranking stage of a recommender, from event logs to served scores."""
