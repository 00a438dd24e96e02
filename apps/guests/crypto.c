/* OpenSSL: SHA-256 of "abc", AES-256-GCM there and back under a random key, an Ed25519 signature. */
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#define MUST(x) do { if ((x) <= 0) { fprintf(stderr, "failed: %s\n", #x); return 1; } } while (0)

int main(void)
{
    unsigned char digest[32], key[32], nonce[12], tag[16], sealed[64], back[64], signature[64];
    const unsigned char text[64] = "what is sealed here must come back as it was";
    int length;
    MUST(EVP_Digest("abc", 3, digest, NULL, EVP_sha256(), NULL));
    for (int i = 0; i < 32; i++)
        printf("%02x", digest[i]);
    puts("");

    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    MUST(RAND_bytes(key, sizeof key));
    MUST(RAND_bytes(nonce, sizeof nonce));
    MUST(EVP_EncryptInit_ex(cipher, EVP_aes_256_gcm(), NULL, key, nonce));
    MUST(EVP_EncryptUpdate(cipher, sealed, &length, text, sizeof text));
    MUST(EVP_EncryptFinal_ex(cipher, sealed + length, &length));
    MUST(EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, 16, tag));
    MUST(EVP_DecryptInit_ex(cipher, EVP_aes_256_gcm(), NULL, key, nonce));
    MUST(EVP_DecryptUpdate(cipher, back, &length, sealed, sizeof sealed));
    MUST(EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, 16, tag));
    MUST(EVP_DecryptFinal_ex(cipher, back + length, &length));
    MUST(memcmp(text, back, sizeof text) == 0);

    EVP_PKEY *pair = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    EVP_MD_CTX *signer = EVP_MD_CTX_new(), *verifier = EVP_MD_CTX_new();
    size_t signed_length = sizeof signature;
    MUST(EVP_DigestSignInit(signer, NULL, NULL, NULL, pair));
    MUST(EVP_DigestSign(signer, signature, &signed_length, text, sizeof text));
    MUST(EVP_DigestVerifyInit(verifier, NULL, NULL, NULL, pair));
    MUST(EVP_DigestVerify(verifier, signature, signed_length, text, sizeof text));
    puts("sealed and signed");
    return 0;
}
