def test_placeholder(model, pairs):
    assert model.predict(pairs).shape == (12,)
