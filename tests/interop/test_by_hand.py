"""curl reads the server by hand of notebook 07."""

import pytest

from helpers.background import Background
from tests import by_hand

curl_cffi = pytest.importorskip("curl_cffi", reason="needs the package curl_cffi")

HTTP_3 = 30  # curl's number for the version it used


def test_curl_reads_the_server_by_hand(credentials):
    pair = by_hand.pair(credentials)
    background = Background("by-hand")
    background.start()
    listening, port = background.run(pair.listen())
    try:
        response = curl_cffi.get(
            f"https://localhost:{port}/stream",
            http_version=curl_cffi.CurlHttpVersion.V3ONLY,
            verify=str(credentials.ca_file),
            timeout=20,
        )
        assert (response.status_code, response.http_version) == (200, HTTP_3)
        assert response.text.splitlines() == [f"data chunk #{number}" for number in range(10)]
    finally:
        background.call(listening.close)
        background.stop()
