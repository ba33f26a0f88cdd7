/* The CRC-32 of zlib, eight bytes at a time. Included by plain_step.c. */

static uint32_t crc_of[8][256]; /* of a byte that so many zeros follow */

static void make_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
        }
        crc_of[0][byte] = crc;
    }
    for (int zeros = 1; zeros < 8; zeros++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = crc_of[zeros - 1][byte];
            crc_of[zeros][byte] = before >> 8 ^ crc_of[0][before & 255];
        }
    }
}

/* `before` is that of the bytes before these, 0 if there are none. */
static uint32_t crc32_of(const char *content, Py_ssize_t size, uint32_t before)
{
    const unsigned char *next = (const unsigned char *)content, *end = next + size;
    uint32_t crc = ~before;
    for (; end - next >= 8; next += 8) {
        crc ^= next[0] | next[1] << 8 | next[2] << 16 | (uint32_t)next[3] << 24;
        crc = crc_of[7][crc & 255] ^ crc_of[6][crc >> 8 & 255] ^ crc_of[5][crc >> 16 & 255] ^
              crc_of[4][crc >> 24] ^ crc_of[3][next[4]] ^ crc_of[2][next[5]] ^
              crc_of[1][next[6]] ^ crc_of[0][next[7]];
    }
    for (; next < end; next++) {
        crc = crc >> 8 ^ crc_of[0][(crc ^ *next) & 255];
    }
    return ~crc;
}
