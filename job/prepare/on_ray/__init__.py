"""ENGINE=ray: shards are encoded by workers of a Ray cluster; everything else stays in the job's own process."""
