"""Tools that look into trained networks: probing, visualisation, charts."""
